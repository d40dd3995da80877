"""Every error a user can meet, in one tree.

LavitError                     base; its message is a sentence for the user
├── UsageError                 the command line or an argument is wrong             exit 2
│   └── ConfigError            a model configuration that cannot exist              exit 2
├── CheckpointError            a checkpoint that cannot be read or does not fit     exit 2
├── DatasetError               a data set that cannot be used                       exit 2
├── BundleError                a bundle or manifest that cannot be used             exit 2
│   └── ParityError            an artifact whose recorded or measured parity failed exit 1
├── ExportError                a graph that could not be built or checked           exit 1
├── TrainingError              a training that cannot go on                         exit 1
├── ProfileError               counts or timings not to be trusted, or not written exit 1
├── MissingDependencyError     an optional package is not installed                 exit 3
├── InferenceError             a runtime failed on a valid input                    exit 1, HTTP 500
└── ImageError                 a picture that cannot be used                        exit 2, HTTP 400
    ├── UnsupportedImageError  not an image, or of a format that is not accepted    HTTP 415
    ├── CorruptImageError      truncated or damaged                                 HTTP 422
    └── ImageTooLargeError     more bytes or pixels than the limit                  HTTP 413

`exit_code` is what a command line ends with, `http_status` what the service answers with.
Anything outside this tree is a fault of the program: it keeps its traceback.
"""


class LavitError(Exception):
    """Base of every error that is explained to the user by its message alone."""

    exit_code = 1
    http_status = 500


class UsageError(LavitError):
    """An argument is wrong, or arguments contradict each other."""

    exit_code = 2


class ConfigError(UsageError):
    """A model configuration breaks one of the architecture's rules."""


class CheckpointError(LavitError):
    """A checkpoint cannot be read, or its tensors do not fit the model."""

    exit_code = 2


class DatasetError(LavitError):
    """A data set is missing, empty or malformed."""

    exit_code = 2


class BundleError(LavitError):
    """A bundle is missing, damaged, or of a schema that this version does not understand."""

    exit_code = 2


class ParityError(BundleError):
    """An artifact does not predict what the float32 model predicts."""

    exit_code = 1


class ExportError(LavitError):
    """An artifact could not be built, or failed a structural check."""


class TrainingError(LavitError):
    """A training cannot go on."""


class ProfileError(LavitError):
    """Counts or timings that cannot be trusted, or whose report could not be written."""


class MissingDependencyError(LavitError):
    """An optional package is needed and not installed.

    Args:
        package: the name that could not be imported.
        extra: the extra of this project that brings it.
        purpose: what it is needed for, completing "... is needed to".
    """

    exit_code = 3

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"{package} is needed to {purpose} and is not installed: "
            f'pip install "lavit-deploy[{extra}]"'
        )


class InferenceError(LavitError):
    """A runtime failed while running a valid input."""


class ImageError(LavitError):
    """A picture cannot be used."""

    exit_code = 2
    http_status = 400


class UnsupportedImageError(ImageError):
    """The bytes are no image, or an image of a format that is not accepted."""

    http_status = 415


class CorruptImageError(ImageError):
    """The image is truncated or damaged."""

    http_status = 422


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than the limit."""

    http_status = 413
