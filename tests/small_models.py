"Small random models in the hub's own format, and small data sets that they can learn: what several test files share."
import random

import numpy as np
import torch
import transformers

import tl_nb.backbones as B
from tl_nb.splits import Dataset

WORDS = "the a cat dog sat ran on under red blue mat hat and".split()
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37, vocab_size=40,
             max_position_embeddings=40)
TEXT = {
    "bert": (transformers.BertModel, transformers.BertConfig(**SMALL)),
    "distilbert": (transformers.DistilBertModel, transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=37, vocab_size=40, max_position_embeddings=40)),
    "roberta": (transformers.RobertaModel, transformers.RobertaConfig(**SMALL, pad_token_id=0)),
    "xlnet": (transformers.XLNetModel, transformers.XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=37,
                                                                vocab_size=40)),
}
IMAGE = {"vit_tiny_patch16_224": dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2),
         "resnet18": {}, "efficientnet_lite0": {}, "convnext_atto": dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))}


def tokenizer():
    "A word-level tokenizer with BERT's special tokens."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS)}
    tok = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="[PAD]", unk_token="[UNK]",
                                                cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def save_text(family, folder, **kw):
    cls, config = TEXT[family]
    torch.manual_seed(0)
    cls(config).save_pretrained(folder, **kw)
    tokenizer().save_pretrained(folder)
    return folder


def image_backbone(family):
    import timm

    torch.manual_seed(0)
    small = dict(num_classes=7, pretrained_cfg_overlay=dict(input_size=(3, 32, 32)), **IMAGE[family])
    return B._timm_backbone(timm.create_model(family, pretrained=False, **small), family)


def small_backbones(folder):
    "{family: backbone} of all families: text, timm, and images of transformers."
    found = {f: B.load_backbone(save_text(f, folder / f"small-{f}")) for f in TEXT}
    found |= {f: image_backbone(f) for f in IMAGE}
    return found | {f"hf-{k}": B.load_backbone(save_hf_image(k, folder / f"small-hf-{k}")) for k in ("vit", "resnet")}


def everything(module):
    "A copy of every parameter and buffer by name, also of buffers that are not saved."
    return {k: v.detach().clone() for k, v in [*module.named_parameters(), *module.named_buffers()]}


def save_hf_image(kind, folder):
    "A ViT or ResNet of transformers, with an image processor of its own numbers."
    torch.manual_seed(0)
    if kind == "vit":
        small = {k: v for k, v in SMALL.items() if k not in ("vocab_size", "max_position_embeddings")}
        model = transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=8))
    else:
        model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
                                                                   layer_type="basic"))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.2, 0.4, 0.6]).save_pretrained(folder)
    return folder


def texts(n=24, classes=("cold", "warm"), seed=0):
    "Texts whose class is the animal in them, split into 2/3 to train on and 1/3 to validate on."
    rng, animal = random.Random(seed), ("cat", "dog", "hat")
    labels = [i % len(classes) for i in range(n)]
    items = [" ".join([animal[y], *rng.choices(WORDS[4:11], k=rng.randint(1, 8))]) for y in labels]
    at = np.arange(n)
    return Dataset(items, labels, list(classes), "text", splits={"train": at[: 2 * n // 3], "valid": at[2 * n // 3:]})


def images(n=12, classes=("cold", "warm"), seed=0, size=32):
    "Noise in two colours, and like `texts` otherwise."
    rng = np.random.default_rng(seed)
    labels = [i % len(classes) for i in range(n)]
    items = []
    for y in labels:
        pixels = rng.integers(0, 120, (size, size, 3))
        pixels[..., y % 3] += 120
        items.append(pixels.astype(np.uint8))
    at = np.arange(n)
    return Dataset(items, labels, list(classes), "image", splits={"train": at[: 2 * n // 3], "valid": at[2 * n // 3:]})
