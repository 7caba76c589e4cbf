"""How far results may be apart, and why: one table for all tests."""

# Relative L2 error against recorded outputs of the official networks. Float32 on one CPU differs
# from another in the order of sums alone; measured 7e-6 and, for arrays recorded in float16, 5e-5.
FLOAT32_PARITY = 1e-4

# The same with features in bfloat16 (8 bits), codes and heads in float32.
BFLOAT16_PARITY = 0.1

# Codes after five steps of Adam. Its first step moves every number by the learning rate in the
# direction of its gradient, however small; of 7168 numbers a few have gradients below the rounding
# of float32 (4e-9 where half are above 2e-5). The exact result, in float64, is 5.8e-4 from the
# recorded one; in float32 it was 1.0e-4 to 4.7e-4, by the order in which sums are taken.
ADAM_PARITY = 1e-3
