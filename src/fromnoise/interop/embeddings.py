"""Embeddings of time and class that other programs share, as weights of the layers here."""

import torch
from torch import Tensor

NO_LABEL = (  # a note of an import
    "no label is the mean of all classes, which the U-Net was not trained on; sample by class, and "
    "without guidance"
)


def time_columns(weight: Tensor, *, cosines_first: bool, in_turn: bool) -> Tensor:
    """Put the columns of the first layer of the time, (C,d), in the order of `sinusoid` here.

    They are d/2 sines and d/2 cosines there, and with `in_turn` a sine and a cosine in turn here.
    """
    sines, cosines = weight.chunk(2, dim=1)
    if cosines_first:
        sines, cosines = cosines, sines
    if in_turn:
        return torch.stack([sines, cosines], dim=2).flatten(1)
    return torch.cat([sines, cosines], dim=1)


def class_columns(table: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer of labels and the bias of the time for a table of classes E, (K,C).

    Here one label is +1 and the others are −1. With W_j = (E_j − m)/2, m the mean of all E, in the
    bias too, class k gives E_k, as W_k − Σ_{j≠k} W_j + m = 2 W_k + m, and no label gives m.
    """
    mean = table.double().mean(dim=0)
    columns = ((table.double() - mean) / 2).mT
    return columns.to(table.dtype), (bias.double() + mean).to(bias.dtype)
