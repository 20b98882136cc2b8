"""torchvision.models: image classifiers, without trained weights. A state_dict of torchvision's loads."""

from core.vision.models.mobilenetv2 import MobileNetV2, mobilenet_v2
from core.vision.models.plain import (
    VGG,
    AlexNet,
    LeNet,
    alexnet,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from core.vision.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    wide_resnet50_2,
)
from core.vision.models.vision_transformer import VisionTransformer, vit_b_16, vit_b_32, vit_l_16, vit_l_32
