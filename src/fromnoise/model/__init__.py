"""A trained model: load it, sample from it, save it."""

from fromnoise.model.model import Autoguidance, Model, load
