"""A small convolutional network with batch normalisation, for digits.

Its buffers are the point: running means and variances belong to the data that
a client saw, and a federation has to decide whose it uses.
"""

from torch import Tensor, nn


class DigitNet(nn.Module):
    """Two convolutions, one hidden layer."""

    def __init__(
        self,
        *,
        channels: int = 1,
        side: int = 8,
        num_classes: int = 10,
        width: int = 16,
    ) -> None:
        """Make a net for square images.

        Args:
            channels: Of the image.
            side: Height and width in pixels, at least 4.
            num_classes: Outputs.
            width: Channels of the first convolution; the second has twice as many.
        """
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Linear(2 * width * (side // 4) ** 2, 4 * width),
            nn.ReLU(),
            nn.Linear(4 * width, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: (num, num_classes) for (num, channels, side, side)."""
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits
