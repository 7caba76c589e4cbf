"""Recording and replaying passes: the rules, with a stand-in for CUDA graphs on the CPU."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import vidinvert
from tests.methods.recorder import Recorder
from tests.methods.test_eigen import write_eigen_pack
from tests.mini import SAMPLE, mini, read_clip
from vidinvert.cli import main
from vidinvert.cli.device import tell_of_graphs
from vidinvert.clock import Clock
from vidinvert.errors import PlanError
from vidinvert.methods import (
    DividedMethod,
    GraphedMethod,
    describe_graphs,
    graph_method,
    load_method,
    time_method,
)
from vidinvert.methods.graphed import PASSES, TOLERANCE, largest_difference
from vidinvert.types import Embedding, Synthesis


class Sums:
    """Codes are means of crops, features the crops; counts how often each pass was run."""

    crop_size, style_count, style_width = 4, 1, 3

    def __init__(self):
        self.ran = {"embed": 0, "find_mask": 0, "synthesise": 0, "generate": 0}

    def embed(self, crops):
        self.ran["embed"] += 1
        return Embedding(w_plus=crops.mean(dim=(2, 3))[:, None], features=(crops + 1, crops * 2))

    def find_mask(self, embedding):
        self.ran["find_mask"] += 1
        return embedding.features[0][:, :1] + embedding.w_plus.mean()

    def synthesise(self, embedding, w_plus):
        self.ran["synthesise"] += 1
        picture = embedding.features[1] + (w_plus - embedding.w_plus).mean()
        return Synthesis(image=picture, ood=picture[:, :1], flows=(picture[:, :2],))

    def generate(self, w_plus):
        self.ran["generate"] += 1
        return w_plus[:, 0, :, None, None].expand(-1, 3, 4, 4) * 3


def graphed(recorder, method=None, **options):
    return GraphedMethod(
        method=method or Sums(), capture=recorder, tolerance=TOLERANCE[torch.float32], **options
    )


def crops(seed, count=2):
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) - 0.5


def codes(seed, count=2):
    return torch.rand(count, 1, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


def test_a_pass_is_recorded_the_second_time_and_replayed_from_the_third_on():
    recorder, plain = Recorder(), Sums()
    method = graphed(recorder)
    for call in range(5):
        assert torch.equal(method.generate(codes(call)), plain.generate(codes(call)))
        assert (len(recorder.recorded), recorder.played) == [
            (0, 0),
            (1, 1),
            (1, 2),
            (1, 3),
            (1, 4),
        ][call]
    assert method.describe() == {
        "captured": [{"pass": "generate", "shape": [2, 1, 3], "difference": 0.0}],
        "eager": {},
    }


def test_every_pass_gives_what_the_method_gives():
    method, plain = graphed(Recorder()), Sums()
    for call in range(4):
        seen, wanted = method.embed(crops(call)), plain.embed(crops(call))
        assert torch.equal(seen.w_plus, wanted.w_plus)
        assert all(map(torch.equal, seen.features, wanted.features))
        assert torch.equal(method.find_mask(seen), plain.find_mask(wanted))
        drawn, expected = (
            one.synthesise(found, codes(call)) for one, found in ((method, seen), (plain, wanted))
        )
        assert torch.equal(drawn.image, expected.image)
        assert torch.equal(drawn.ood, expected.ood)
        assert torch.equal(drawn.flows[0], expected.flows[0])
    assert [row["pass"] for row in method.describe()["captured"]] == [
        "embed",
        "find_mask",
        "synthesise",
    ]
    assert (method.crop_size, method.style_count, method.style_width) == (4, 1, 3)


def test_what_was_returned_is_not_overwritten_by_later_replays():
    method, plain = graphed(Recorder()), Sums()
    embeddings = [method.embed(crops(seed)) for seed in range(6)]
    pictures = [method.generate(codes(seed)) for seed in range(6)]
    for seed, (embedding, picture) in enumerate(zip(embeddings, pictures, strict=True)):
        wanted = plain.embed(crops(seed))
        assert torch.equal(embedding.features[1], wanted.features[1])
        assert torch.equal(method.find_mask(embedding), plain.find_mask(wanted))
        assert torch.equal(picture, plain.generate(codes(seed)))


def test_a_shape_that_comes_once_is_not_recorded_and_another_gets_a_graph_of_its_own():
    recorder = Recorder()
    method = graphed(recorder)
    for count in (8, 8, 8, 3, 2, 8, 2, 2):
        method.generate(codes(0, count))
    assert recorder.recorded == [(8, 1, 3), (2, 1, 3)]
    assert recorder.played == 5  # the first of each is the one that is compared


def test_a_dtype_is_a_kind_of_its_own():
    recorder = Recorder()
    method = graphed(recorder)
    for dtype in (torch.float32, torch.float64, torch.float32, torch.float64):
        assert method.generate(codes(0).to(dtype)).dtype == dtype
    assert len(recorder.recorded) == 2


def test_no_more_than_the_limit_is_recorded():
    recorder = Recorder()
    method = graphed(recorder, most=2)
    for count in (1, 2, 3, 4):
        for _ in range(3):
            assert len(method.generate(codes(0, count))) == count
    assert recorder.recorded == [(1, 1, 3), (2, 1, 3)]
    assert method.describe()["eager"] == {}


def test_a_pass_that_cannot_be_recorded_stays_eager_and_says_why():
    recorder, plain = Recorder(refuses=[(2, 1, 3)]), Sums()
    method = graphed(recorder)
    for call in range(4):
        assert torch.equal(method.generate(codes(call)), plain.generate(codes(call)))
        method.generate(codes(call, 5))  # of another shape, but the same pass
        method.embed(crops(call))
    assert recorder.recorded == [(2, 3, 4, 4)]
    assert method.describe()["eager"] == {
        "generate": "it could not be recorded: operation not permitted when stream is capturing"
    }


def test_a_replay_that_differs_from_the_eager_run_is_not_used():
    recorder, plain = Recorder(stale=True), Sums()
    method = graphed(recorder)
    for call in range(4):
        assert torch.equal(method.generate(codes(call)), plain.generate(codes(call)))
    described = method.describe()
    assert described["captured"] == []
    assert (
        "differs from the eager run by 0.5, expected at most 1e-05"
        in described["eager"]["generate"]
    )
    assert len(recorder.recorded) == 1


def test_a_replay_that_keeps_what_it_was_recorded_on_is_found_out_for_equal_inputs():
    method, plain = graphed(Recorder(stale=True)), Sums()
    for _ in range(4):
        assert torch.equal(method.generate(codes(0)), plain.generate(codes(0)))
    assert list(method.describe()["eager"]) == ["generate"]


def test_a_replay_that_fails_later_is_run_eagerly_and_its_graphs_are_dropped():
    recorder, plain = Recorder(), Sums()
    method = graphed(recorder)
    for call in range(3):
        method.generate(codes(call))
    recorder.broken = True
    for call in range(2):
        assert torch.equal(method.generate(codes(call)), plain.generate(codes(call)))
    assert method.describe() == {
        "captured": [],
        "eager": {"generate": "a replay failed: an illegal memory access was encountered"},
    }


def test_where_the_memory_is_short_graphs_are_let_go_and_the_pass_is_tried_again():
    class Greedy(Sums):
        short = 0

        def generate(self, w_plus):
            if self.short:
                self.short -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5 GiB")
            return super().generate(w_plus)

    recorder, greedy, plain = Recorder(), Greedy(), Sums()
    method = graphed(recorder, greedy)
    for call in range(3):
        method.generate(codes(call))
        method.embed(crops(call))
    assert len(method.describe()["captured"]) == 2
    greedy.short = 1
    assert torch.equal(method.generate(codes(5, 3)), plain.generate(codes(5, 3)))
    described = method.describe()
    assert described["captured"] == []
    assert set(described["eager"]) == {*PASSES}
    assert "the memory did not suffice" in described["eager"]["embed"]
    played = recorder.played
    assert torch.equal(method.generate(codes(1)), plain.generate(codes(1)))
    greedy.short = 1  # and where there is nothing to let go, it is the caller's
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        method.generate(codes(1))
    assert (recorder.played, len(recorder.recorded)) == (played, 2)


def test_differences_are_relative_and_what_is_no_number_is_infinite():
    one = torch.tensor([3.0, 4.0])
    assert largest_difference((one, one * 1.5), (one, one)) == pytest.approx(0.5)
    assert largest_difference((one, one * 0), (one, one * 0)) == 0.0
    assert largest_difference((one,), (one * 0,)) > 1e20
    assert largest_difference((one, one), (one,)) == float("inf")
    assert largest_difference((one[:1],), (one,)) == float("inf")
    nothing = torch.tensor([3.0, float("nan")])
    assert largest_difference((nothing, one), (one, one)) == float("inf")
    assert largest_difference((nothing,), (nothing,)) == float("inf")


def test_gradients_pass_through_as_if_there_were_no_graphs():
    recorder = Recorder()
    method = graphed(recorder)
    for _ in range(3):
        method.generate(codes(0))
    asked = codes(1).requires_grad_()
    method.generate(asked).sum().backward()
    assert torch.equal(asked.grad, torch.full((2, 1, 3), 48.0))
    played = recorder.played
    with torch.no_grad():
        assert not method.generate(asked).requires_grad
    assert recorder.played == played + 1


@pytest.mark.parametrize("first", [True, False])
def test_what_is_recorded_in_inference_mode_is_played_outside_of_it_and_the_reverse(first):
    recorder, plain = Recorder(), Sums()
    method = graphed(recorder)
    with torch.inference_mode(first):
        for _ in range(3):
            method.generate(codes(0))
    assert not any(one.is_inference() for one in recorder.inputs[0])
    with torch.inference_mode(not first):
        values = codes(1).clone()
        seen = method.generate(values)
        assert torch.equal(seen, plain.generate(values))
        assert seen.is_inference() == (not first)
    assert recorder.played == 3


def test_threads_play_one_after_the_other_and_get_their_own_results():
    recorder, plain = Recorder(slow=0.002), Sums()
    method, wrong, start = graphed(recorder), [], threading.Barrier(4)

    def work(thread):
        start.wait()
        for call in range(10):
            given = codes(10 * thread + call)
            if not torch.equal(method.generate(given), plain.generate(given)):
                wrong.append((thread, call))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(recorder.recorded) == 1
    assert recorder.played == 39  # of 40, one was seen for the first time


def test_our_networks_give_the_same_by_replays(tmp_path):
    plain = load_method(write_eigen_pack(tmp_path), method="samm")
    recorder = Recorder()
    method = graphed(recorder, plain)
    with torch.inference_mode():
        for seed in range(3):
            random = torch.Generator().manual_seed(seed)
            given = torch.rand(1, 3, 256, 256, generator=random) * 2 - 1
            seen, wanted = method.embed(given), plain.embed(given)
            assert torch.equal(seen.w_plus, wanted.w_plus)
            assert seen.features[0].stride() == wanted.features[0].stride()
            assert torch.equal(method.find_mask(seen), plain.find_mask(wanted))
            drawn = method.synthesise(seen, seen.w_plus + 0.1)
            expected = plain.synthesise(wanted, wanted.w_plus + 0.1)
            assert torch.equal(drawn.image, expected.image)
            assert torch.equal(method.generate(seen.w_plus), plain.generate(wanted.w_plus))
    assert recorder.played == 8
    assert method.describe()["eager"] == {}


def test_a_clip_edited_by_replays_is_the_same_clip_and_the_report_says_so(tmp_path):
    recorder = Recorder()
    models = {
        "plain": mini(),
        "replayed": replace(mini(), method=graphed(recorder, mini().method)),
    }
    plans, described = vidinvert.Plans(render=vidinvert.RenderPlan(batch_size=1)), {}
    for name, pack in models.items():
        report = vidinvert.edit_video(
            SAMPLE,
            tmp_path / f"{name}.mp4",
            edits="smile=2",
            pack=pack,
            plans=plans,
            span=vidinvert.Span(end_seconds=0.24),
        )
        described[name] = report["cuda_graphs"]
    assert recorder.played > 4
    assert described["plain"] is None
    assert described["replayed"][0]["eager"] == {}
    recorded = {row["pass"] for row in described["replayed"][0]["captured"]}
    assert recorded == {"embed", "find_mask", "sketch"}
    np.testing.assert_array_equal(*(read_clip(tmp_path / f"{name}.mp4")[0] for name in models))


def test_graphs_are_for_cuda_and_for_methods_without_steps(monkeypatch):
    method = Sums()

    def chosen(method, device, wanted):
        return graph_method(method, device=device, dtype=torch.bfloat16, wanted=wanted)

    assert chosen(method, "cuda:1", "off") is method
    assert chosen(method, "cpu", "auto") is method
    found = chosen(method, "cuda:1", "auto")
    assert isinstance(found, GraphedMethod)
    assert found.tolerance == TOLERANCE[torch.bfloat16]

    class Refining(Sums):
        def refine(self, crops, embedding, previous):
            return embedding

    refining = Refining()
    assert chosen(refining, "cuda:1", "auto") is refining
    with pytest.raises(PlanError, match="The device is 'cpu', but CUDA graphs need"):
        chosen(method, "cpu", "on")
    with pytest.raises(PlanError, match="The method works step by step, but CUDA graphs need"):
        chosen(refining, "cuda:1", "on")


def test_graphs_are_described_through_what_is_around_them():
    one, other = graphed(Recorder()), graphed(Recorder())
    both = DividedMethod(methods=(one, other), devices=(torch.device("cpu"),) * 2)
    one.generate(codes(0))
    one.generate(codes(0))
    assert describe_graphs(Sums()) is None
    timed = describe_graphs(time_method(both, Clock()))
    assert timed == [one.describe(), other.describe()]
    assert len(timed[0]["captured"]) == 1


def test_demanding_graphs_without_a_gpu_is_refused_in_one_sentence(tmp_path, capsys):
    with pytest.raises(PlanError, match="The device is 'cpu', but CUDA graphs need"):
        vidinvert.load_pack("mini", cuda_graphs="on")
    target = tmp_path / "out.mp4"
    demanded = ("--device", "cpu", "--cuda-graphs", "on", "--edit", "smile=1")
    assert main(["edit", str(SAMPLE), "-o", str(target), *demanded]) == 2
    assert "CUDA graphs need a CUDA device, and the device chosen is the CPU" in (
        capsys.readouterr().err
    )
    assert main(["batch", str(SAMPLE), "-o", str(tmp_path / "edited"), *demanded]) == 2
    assert "CUDA graphs need a CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_where_graphs_are_demanded_it_is_said_once_which_passes_ran_without(capsys):
    failing = {"captured": [], "eager": {"generate": "a replay failed: so"}}
    tell_of_graphs("on", [None, [failing, failing], [failing]])
    assert capsys.readouterr().err == (
        "vidinvert: no CUDA graph of generate, which ran without: a replay failed: so\n"
    )
    tell_of_graphs("auto", [[failing]])
    assert capsys.readouterr().err == ""
