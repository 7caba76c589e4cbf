"""How far results may be apart, and why: one table for all tests."""

# Relative L2 error against recorded outputs of the official networks. Float32 on one CPU differs
# from another in the order of sums alone; measured 7e-6 and, for arrays recorded in float16, 5e-5.
FLOAT32_PARITY = 1e-4

# The same with features in bfloat16 (8 bits), codes and heads in float32.
BFLOAT16_PARITY = 0.1
