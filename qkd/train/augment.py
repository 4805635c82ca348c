"""Random views of training images: reflected border, crop and mirror on bytes in memory."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from qkd.data.datasets import Dataset
from qkd.data.pixels import image_batch
from qkd.train.accelerator import CPU


class Views:
    """The training images of a data set, in the device's memory, ready to be cropped and mirrored."""

    def __init__(self, data: Dataset, device: torch.device = CPU) -> None:
        self.size = data.train.images.shape[1:3]
        self.border = data.crop_padding
        self.flip = data.flip
        images_NCHW = torch.from_numpy(data.train.images).permute(0, 3, 1, 2)
        padded = pad(images_NCHW, [self.border] * 4, mode="reflect") if self.border else images_NCHW
        self.padded_NHWC = padded.permute(0, 2, 3, 1).contiguous().to(device)

    def batch(self, index_N: Tensor, generator: torch.Generator, part: slice = slice(None)) -> Tensor:
        """One random view of each image at `index_N`, as a float batch (N, C, H, W), channels last.

        Of the batch only `part` is made, with the views that the whole batch would give it.
        """
        count = (len(index_N),)
        height, width = self.size
        top, left = (torch.randint(0, 2 * self.border + 1, count, generator=generator) for _ in range(2))
        mirrored = torch.randint(0, 2, count, generator=generator).bool() & self.flip
        index_N, top, left = (where[part].to(self.padded_NHWC.device) for where in (index_N, top, left))
        windows = self.padded_NHWC.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
        views_NHWC = windows[index_N, top, left]
        turned = mirrored[part].nonzero().flatten().to(views_NHWC.device)
        views_NHWC[turned] = views_NHWC[turned].flip(2)
        return image_batch(views_NHWC)
