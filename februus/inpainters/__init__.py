"""Inpainters: pictures and masks in, pictures out, equal to the input where the mask is 0."""
