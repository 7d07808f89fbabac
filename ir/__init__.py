"""The two small languages (kernels and specs) and what they mean. Imports nothing of ours."""
