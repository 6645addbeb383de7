"""Models that people use, by collection: names, how each is built without pretrained weights, and an example of its inputs.

One small member of each family, on small inputs where it takes any; `name:depth=2` is the family's smallest with fewer blocks.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 2
Built = tuple[nn.Module, tuple[Any, ...]]

TIMM = """
resnet18 resnext50_32x4d resnetv2_50 efficientnet_b0 mobilenetv2_100 mobilenetv3_small_100 mobilenetv4_conv_small
regnetx_002 regnety_002 convnext_atto convnextv2_atto densenet121 dla34 ghostnet_100 hrnet_w18_small inception_v3
mixnet_s mnasnet_small rexnet_100 repvgg_a0 res2net50_26w_4s selecsls42 skresnet18 tinynet_e vgg11 xception41
fbnetc_100 lcnet_050 fastvit_t8 mobileone_s0 edgenext_xx_small mobilevit_xxs mobilevitv2_050 poolformer_s12
mixer_s32_224 gmlp_ti16_224 resmlp_12_224 efficientformer_l1 efficientvit_b0 levit_128s visformer_tiny pvt_v2_b0
vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 cait_xxs24_224 crossvit_9_240 coat_lite_tiny
pit_ti_224 xcit_nano_12_p16_224 eva02_tiny_patch14_224 tiny_vit_5m_224 twins_svt_small volo_d1_224 convmixer_768_32
nf_resnet26 ese_vovnet19b_dw cspresnet50 gernet_s darknet53 botnet26t_256 halonet26t lambda_resnet26t starnet_s1
repghostnet_050 hgnet_tiny nextvit_small efficientnet_cc_b0_4e beit_base_patch16_224:depth=2 convit_tiny cpubone_nano
csatv2 cs3darknet_s cspnext_tiny davit_tiny dpn48b efficientformerv2_s0 efficientvim_m1 efficientvit_m0 fasternet_t0
focalnet_tiny_srf gcvit_xxtiny ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
iformer_t inception_next_atto inception_resnet_v2 inception_v4 lcnetv2_small levit_conv_128s lowformer_b0 test_mambaout
test_maxvit test_coatnet caformer_s18 convformer_s18 poolformerv2_s12 fbnetv3_b mobilenetv4_hybrid_medium_075 mvitv2_tiny
nest_tiny test_nfnet eca_nfnet_l0 nf_regnet_b0 rdnet_tiny regnetz_005 regnetz_b16 repvit_m1 resnest14d resnet10t
seresnet18 resnetv2_18 resnetv2_50d_gn resnetv2_50d_frn resnetv2_50d_evos resnetv2_50x1_bit legacy_seresnet18
sequencer2d_s shvit_s1 swiftformer_xs swinv2_tiny_window8_256 swinv2_cr_tiny_224 tnt_s_patch16_224 tresnet_m
tresnet_v2_l twins_pcpvt_small test_vit test_vit2 test_vit3 vit_tiny_r_s16_p8_224 test_vit_relpos
samvit_base_patch16_224:depth=2 vitamin_small_224 eca_vovnet39b ese_vovnet39b_evos legacy_xception xception41p
vit_small_patch16_dinov3:depth=2 vit_small_patch16_rope_224:depth=2 convnext_atto_rms densenetblur121d gcresnet33ts
eca_resnext26ts naflexvit_base_patch16_gap:depth=2 nasnetalarge pnasnet5large
""".split()  # noqa: SIM905
TORCHVISION = """
alexnet vgg11_bn resnet18 squeezenet1_1 densenet121 googlenet inception_v3 shufflenet_v2_x0_5 mobilenet_v2
mobilenet_v3_small mnasnet0_5 efficientnet_b0 regnet_x_400mf convnext_tiny vit_b_32 swin_t swin_v2_t maxvit_t
deeplabv3_mobilenet_v3_large deeplabv3_resnet50 fcn_resnet50 lraspp_mobilenet_v3_large
mc3_18 mvit_v1_b mvit_v2_s r2plus1d_18 r3d_18 s3d swin3d_t raft_small
fasterrcnn_mobilenet_v3_large_fpn.backbone fasterrcnn_resnet50_fpn_v2.backbone retinanet_resnet50_fpn.backbone
ssd300_vgg16.backbone ssdlite320_mobilenet_v3_large.backbone fcos_resnet50_fpn.backbone
retinanet_resnet50_fpn.head fcos_resnet50_fpn.head ssdlite320_mobilenet_v3_large.head fasterrcnn_resnet50_fpn.rpn.head
retinanet_resnet50_fpn ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_fpn
""".split()  # noqa: SIM905
SMP = [
    f"{architecture}/{encoder}"
    for architecture, encoders in {
        "Unet": "resnet18 efficientnet-b0 mobilenet_v2 mit_b0 timm-regnetx_002 tu-convnext_atto tu-mobilenetv3_small_100",
        "UnetPlusPlus": "resnet18 mobilenet_v2",
        "MAnet": "resnet18",
        "Linknet": "resnet18 vgg11_bn",
        "FPN": "resnet18 efficientnet-b0 densenet121 dpn68",
        "PSPNet": "resnet18 mobilenet_v2",
        "PAN": "resnet18",
        "DeepLabV3": "resnet18",
        "DeepLabV3Plus": "resnet18 mobilenet_v2",
        "UPerNet": "resnet18 tu-mobilenetv3_small_100",
        "Segformer": "resnet18 mit_b0",
        "DPT": "tu-vit_tiny_patch16_224",
    }.items()
    for encoder in encoders.split()
]
BRAINDECODE = """
ATCNet AttentionBaseNet BDTCN BIOT BrainModule CBraMod CTNet ContraWR Deep4Net EEGConformer EEGITNet EEGInceptionERP
EEGInceptionMI EEGMiner EEGNeX EEGNet EEGSimpleConv EEGTCNet FBCNet FBLightConvNet FBMSNet HybridNet IFNet LUNA MEDFormer
MSVTNet MVPFormer NeuroPose PBT SCCNet SPARCNet SSTDPN ShallowFBCSPNet SignalJEPA_PostLocal SignalJEPA_PreLocal SincShallowNet
SleepStagerBlanco2020 SleepStagerChambon2018 SyncNet TCFormer TIDNet TSception
""".split()  # noqa: SIM905
_PLAIN = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
# Constructor arguments, shape of one sample.
MONAI: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "AHNet": ({"layers": (1, 1, 1, 1), "spatial_dims": 2, "upsample_mode": "bilinear"}, (1, 128, 128)),
    "AttentionUnet": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)},
        (1, 32, 32),
    ),
    "AutoEncoder": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (8, 16), "strides": (2, 2)},
        (1, 32, 32),
    ),
    "AutoencoderKL": (
        {
            **_PLAIN,
            "channels": (8, 16),
            "num_res_blocks": (1, 1),
            "attention_levels": (False, True),
            "norm_num_groups": 4,
        },
        (1, 16, 16),
    ),
    "BasicUNet": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "features": (8, 8, 16, 32, 32, 8)},
        (1, 32, 32),
    ),
    "BasicUNetPlusPlus": ({"spatial_dims": 2, "features": (8, 8, 16, 32, 32, 8)}, (1, 32, 32)),
    "Classifier": ({"in_shape": (1, 32, 32), "classes": 3, "channels": (8, 16), "strides": (2, 2)}, (1, 32, 32)),
    "DenseNet121": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 3}, (1, 64, 64)),
    "DiffusionModelUNet": (
        {
            **_PLAIN,
            "channels": (8, 16),
            "num_res_blocks": 1,
            "attention_levels": (False, True),
            "norm_num_groups": 4,
            "num_head_channels": 8,
        },
        (1, 16, 16),
    ),
    "Discriminator": ({"in_shape": (1, 32, 32), "channels": (8, 16), "strides": (2, 2)}, (1, 32, 32)),
    "DynUNet": (
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
        },
        (1, 32, 32),
    ),
    "EfficientNetBN": ({"model_name": "efficientnet-b0", "pretrained": False, "num_classes": 3}, (3, 64, 64)),
    "FlexibleUNet": ({"in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0"}, (3, 64, 64)),
    "FullyConnectedNet": ({"in_channels": 8, "out_channels": 3, "hidden_channels": (16, 8)}, (8,)),
    "Generator": (
        {"latent_shape": (12,), "start_shape": (8, 8, 8), "channels": (8, 1), "strides": (2, 2)},
        (12,),
    ),
    "GlobalNet": (
        {"image_size": (16, 16), "spatial_dims": 2, "in_channels": 2, "num_channel_initial": 8, "depth": 2},
        (2, 16, 16),
    ),
    "HighResNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, (1, 32, 32)),
    "LocalNet": (
        {"spatial_dims": 2, "in_channels": 2, "num_channel_initial": 8, "extract_levels": (0, 1), "out_channels": 2},
        (2, 16, 16),
    ),
    "MedNeXtSmall": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, (1, 64, 64)),
    "PatchDiscriminator": ({"spatial_dims": 2, "channels": 8, "in_channels": 1, "num_layers_d": 2}, (1, 32, 32)),
    "Quicknat": ({"num_filters": 16}, (1, 32, 32)),
    "RegUNet": ({"spatial_dims": 2, "in_channels": 2, "num_channel_initial": 8, "depth": 2}, (2, 16, 16)),
    "Regressor": ({"in_shape": (1, 32, 32), "out_shape": (2,), "channels": (8, 16), "strides": (2, 2)}, (1, 32, 32)),
    "resnet18": ({"spatial_dims": 3, "n_input_channels": 1, "num_classes": 3}, (1, 32, 32, 32)),
    "SEResNet50": ({"spatial_dims": 2, "in_channels": 3, "num_classes": 3}, (3, 64, 64)),
    "SegResNet": ({"spatial_dims": 2, "init_filters": 8, "in_channels": 1}, (1, 32, 32)),
    "SegResNetDS": ({"spatial_dims": 2, "init_filters": 8, "in_channels": 1, "blocks_down": (1, 2, 2)}, (1, 32, 32)),
    "SegResNetVAE": ({"input_image_size": (32, 32), "spatial_dims": 2, "init_filters": 8}, (1, 32, 32)),
    "SwinUNETR": ({"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 2}, (1, 64, 64)),
    "UNETR": (
        {
            "in_channels": 1,
            "out_channels": 2,
            "img_size": (32, 32),
            "spatial_dims": 2,
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_heads": 4,
            "feature_size": 8,
        },
        (1, 32, 32),
    ),
    "UNet": (
        {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "channels": (8, 16, 32),
            "strides": (2, 2),
            "num_res_units": 2,
        },
        (1, 16, 16, 16),
    ),
    "VNet": ({"spatial_dims": 2, "dropout_dim": 2}, (1, 64, 64)),
    "VQVAE": (
        {
            **_PLAIN,
            "channels": (8, 16),
            "num_res_channels": (8, 16),
            "num_res_layers": 1,
            "num_embeddings": 16,
            "embedding_dim": 8,
            "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
            "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        },
        (1, 16, 16),
    ),
    "VarAutoEncoder": (
        {
            "spatial_dims": 2,
            "in_shape": (1, 32, 32),
            "out_channels": 1,
            "latent_size": 4,
            "channels": (8, 16),
            "strides": (2, 2),
        },
        (1, 32, 32),
    ),
    "ViT": (
        {
            "in_channels": 1,
            "img_size": (32, 32),
            "patch_size": 8,
            "spatial_dims": 2,
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_layers": 2,
            "num_heads": 4,
            "classification": True,
        },
        (1, 32, 32),
    ),
    "ViTAutoEnc": (
        {"in_channels": 1, "img_size": (32, 32), "patch_size": 4, "spatial_dims": 2, "num_layers": 2},
        (1, 32, 32),
    ),
}
_SECOND_INPUT: dict[str, Callable[[], Tensor]] = {"DiffusionModelUNet": lambda: torch.tensor([3, 7])}


def load_operators() -> None:
    """torchvision's compiled operators may be built for another torch: models need none of them, but their names."""
    try:
        importlib.import_module("torchvision")
    except Exception:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for kernel in ("nms", "qnms"):
            library.define(f"{kernel}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []


def _images(*shape: int) -> tuple[Tensor]:
    return (torch.randn(BATCH, *shape),)


# Convolutions without padding, and blocks of attention, need that many pixels.
_TIMM_SIZES = {"inception_v3": 96, "inception_v4": 96, "inception_resnet_v2": 96, "halonet26t": 256}


def timm(name: str, size: int) -> Built:
    """A model of timm."""
    name, _, option = name.partition(":")
    more = {"depth": int(option.partition("=")[2])} if option else {}
    model = importlib.import_module("timm").create_model(name, num_classes=10, **more)
    channels, *sides = model.default_cfg["input_size"]
    size = max(size, _TIMM_SIZES.get(name, 0))
    fixed = model.default_cfg.get("fixed_input_size") or min(sides) <= size
    return model, _images(channels, *(sides if fixed else (size, size)))


_TORCHVISION_SIZES = {
    "inception_v3": 299,
    "vit_b_32": 224,
    "maxvit_t": 224,
    "swin_t": 224,
    "alexnet": 224,
    "raft_small": 128,
    "s3d": 224,
    "ssd300_vgg16": 300,
}


def torchvision(name: str, size: int) -> Built:
    """A model of torchvision, or a part of one."""
    models: Any = importlib.import_module("torchvision.models")
    name, _, part = name.partition(".")
    families = (models.detection, models.optical_flow)
    is_detector, is_flow = (name in models.list_models(module=family) for family in families)
    arguments = (
        {"weights_backbone": None} if is_detector or name in models.list_models(module=models.segmentation) else {}
    )
    classes = {} if is_flow else {"num_classes": 10}
    model = models.get_model(name, weights=None, **classes, **arguments)
    side = _TORCHVISION_SIZES.get(name, size)
    if name in models.list_models(module=models.video):
        return model, _images(3, 16, *(224, 224) if "mvit" in name else (side, side))
    if is_flow:
        return model, (*_images(3, side, side), *_images(3, side, side))
    if not part:
        return model, ([torch.rand(3, 64, 64)],) if is_detector else _images(3, side, side)
    if "head" in part:
        features = model.backbone.eval()(torch.randn(BATCH, 3, 64, 64))
        return model.get_submodule(part), (list(features.values()),)
    return model.get_submodule(part), _images(3, side, side)


def smp(name: str, size: int) -> Built:
    """A model of segmentation-models-pytorch: architecture/encoder."""
    library: Any = importlib.import_module("segmentation_models_pytorch")
    architecture, encoder = name.split("/")
    side = 224 if "vit" in encoder else 128 if architecture == "PAN" else size
    more = {"dynamic_img_size": False} if architecture == "DPT" else {}
    return getattr(library, architecture)(encoder, encoder_weights=None, classes=2, **more), _images(3, side, side)


def braindecode(name: str, size: int) -> Built:
    """A network for 22 channels of EEG, four seconds at 250 Hz."""
    library: Any = importlib.import_module("braindecode.models")
    return getattr(library, name)(n_chans=22, n_outputs=4, n_times=1000, sfreq=250), _images(22, 1000)


def monai(name: str, size: int) -> Built:
    """A network of MONAI, narrow."""
    library: Any = importlib.import_module("monai.networks.nets")
    arguments, shape = MONAI[name]
    second = (_SECOND_INPUT[name](),) if name in _SECOND_INPUT else ()
    return getattr(library, name)(**arguments), (*_images(*shape), *second)


# Name of the collection -> package, builder `(name, side) -> (model, inputs)`, names.
ZOOS: dict[str, tuple[str, Callable[[str, int], Built], list[str]]] = {
    "timm": ("timm", timm, TIMM),
    "torchvision": ("torchvision", torchvision, TORCHVISION),
    "smp": ("segmentation_models_pytorch", smp, SMP),
    "braindecode": ("braindecode.models", braindecode, BRAINDECODE),
    "monai": ("monai.networks.nets", monai, list(MONAI)),
}
