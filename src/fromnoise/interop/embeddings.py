"""Embeddings of time and class that other programs share, as weights of the layers here."""

import torch
from torch import Tensor

NO_LABEL = (  # a note of an import
    "without a label the embedding is the mean of all classes, which the U-Net was not trained on; "
    "sample by class, and without guidance"
)


def time_columns(weight: Tensor, *, cosines_first: bool, in_turn: bool) -> Tensor:
    """Reorder the columns of the first layer of the time, (C,d), for `sinusoid` here.

    In the other program they are d/2 sines and d/2 cosines. With `in_turn` they alternate here.
    """
    sines, cosines = weight.chunk(2, dim=1)
    if cosines_first:
        sines, cosines = cosines, sines
    if in_turn:
        return torch.stack([sines, cosines], dim=2).flatten(1)
    return torch.cat([sines, cosines], dim=1)


def class_columns(table: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer of labels and the bias of the time for a table of classes E, (K,C).

    Here one label is +1 and the others are −1. With the columns W_j = (E_j − m)/2, and the mean m
    of all E added to the bias, class k gives E_k, because W_k − Σ_{j≠k} W_j + m = 2 W_k + m. An
    image without a label gives m.
    """
    mean = table.double().mean(dim=0)
    columns = ((table.double() - mean) / 2).mT
    return columns.to(table.dtype), (bias.double() + mean).to(bias.dtype)
