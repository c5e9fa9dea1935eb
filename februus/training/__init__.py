"""Fitting a classifier, fitting the inpainting GAN."""
