"""Networks and nothing else: tensors in, tensors out; no files, no devices, no options."""
