# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Converts the published tokenizer and decoder of GLM-4-Voice to one [`Glm4VoiceCodec`]:

python -m processing.convert_glm4_voice_to_hf --tokenizer_dir THUDM/glm-4-voice-tokenizer \
    --decoder_dir THUDM/glm-4-voice-decoder --output_dir glm4-voice-codec
"""

import argparse
import pickle
import re
import reprlib
import sys
import zipfile
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from hub_cards.command_line import ArgumentParser, run_command
from modeling_vita_audio.convert_vita_audio_to_hf import compare_shapes, find_folder, read_json

from .configuration_glm4_voice_codec import Glm4VoiceCodecConfig
from .modeling_glm4_voice_codec import Glm4VoiceCodec
from .saving_vita_audio import check_is_free


PROG = "processing.convert_glm4_voice_to_hf"

# For each published file, the values that it must have, and the keys whose values our configurations take: its key and
# our key. A dot in its key leads into a mapping, and `!` is the name in a YAML tag, see [`HyperPyYamlLoader`]
TOKENIZER_VALUES = {
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_causal_encoder": False,
    "pooling_type": "avg",
    "scale_embedding": False,
}
TOKENIZER_KEYS = {
    "num_mel_bins": "num_mel_bins",
    "d_model": "d_model",
    "quantize_position": "encoder_layers",
    "encoder_attention_heads": "encoder_attention_heads",
    "encoder_ffn_dim": "encoder_ffn_dim",
    "activation_function": "activation_function",
    "max_source_positions": "max_source_positions",
    "quantize_causal_block_size": "attention_block_size",
    "pooling_kernel_size": "pooling_kernel_size",
    "quantize_vocab_size": "codebook_size",
}
FEATURE_EXTRACTOR_VALUES = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "chunk_length": 30}

FLOW_VALUES = {
    "!": "cosyvoice.flow.flow.MaskedDiffWithXvec",
    "output_type": "mel",
    "input_frame_rate": 12.5,
    "encoder.!": "cosyvoice.transformer.encoder.BlockConformerEncoder",
    "encoder.normalize_before": True,
    "encoder.input_layer": "linear",
    "encoder.pos_enc_layer_type": "rel_pos_espnet",
    "encoder.selfattention_layer_type": "block_rel_selfattn",
    "encoder.use_cnn_module": False,
    "encoder.macaron_style": False,
    "length_regulator.!": "cosyvoice.flow.length_regulator.InterpolateRegulator",
    "length_regulator.sampling_ratios": [1, 1, 1, 1],
    "decoder.!": "cosyvoice.flow.flow_matching.ConditionalCFM",
    "decoder.cfm_params.content.solver": "euler",
    "decoder.cfm_params.content.t_scheduler": "cosine",
    "decoder.estimator.!": "cosyvoice.flow.decoder.ConditionalDecoder",
    "decoder.estimator.act_fn": "gelu",
}
FLOW_KEYS = {
    "vocab_size": "vocab_size",
    "output_size": "num_mel_bins",
    "spk_embed_dim": "speaker_embedding_size",
    "input_size": "hidden_size",
    "encoder.num_blocks": "num_hidden_layers",
    "encoder.attention_heads": "num_attention_heads",
    "encoder.linear_units": "intermediate_size",
    "encoder.block_size": "attention_block_size",
    "decoder.estimator.channels": "unet_hidden_sizes",
    "decoder.estimator.n_blocks": "unet_blocks_per_level",
    "decoder.estimator.num_mid_blocks": "unet_num_mid_levels",
    "decoder.estimator.num_heads": "unet_num_attention_heads",
    "decoder.estimator.attention_head_dim": "unet_head_dim",
    "decoder.cfm_params.content.inference_cfg_rate": "guidance_scale",
}
VOCODER_VALUES = {
    "!": "cosyvoice.hifigan.generator.HiFTGenerator",
    "f0_predictor.!": "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor",
    "f0_predictor.num_class": 1,
}
VOCODER_KEYS = {
    "sampling_rate": "sampling_rate",
    "in_channels": "num_mel_bins",
    "base_channels": "base_channels",
    "f0_predictor.cond_channels": "f0_channels",
    "nb_harmonics": "num_harmonics",
    "nsf_alpha": "source_amplitude",
    "nsf_sigma": "source_noise_std",
    "nsf_voiced_threshold": "voiced_threshold",
    "upsample_rates": "upsample_rates",
    "upsample_kernel_sizes": "upsample_kernel_sizes",
    "istft_params.n_fft": "istft_n_fft",
    "istft_params.hop_len": "istft_hop_length",
    "resblock_kernel_sizes": "resblock_kernel_sizes",
    "resblock_dilation_sizes": "resblock_dilation_sizes",
    "source_resblock_kernel_sizes": "source_resblock_kernel_sizes",
    "source_resblock_dilation_sizes": "source_resblock_dilation_sizes",
    "lrelu_slope": "lrelu_slope",
    "audio_limit": "audio_limit",
}

# Rules from our names to the published ones. All that match a name are applied, in order
# Our speech encoder has the published names
TOKENIZER_NAMES = ()
FLOW_NAMES = (
    (r"^encoder\.embed_codes\.", "input_embedding."),
    (r"^encoder\.mel_proj\.", "encoder_proj."),
    (r"^encoder\.in_proj\.", "encoder.embed.out.0."),
    (r"^encoder\.in_norm\.", "encoder.embed.out.1."),
    (r"^encoder\.norm\.", "encoder.after_norm."),
    (r"^encoder\.layers\.", "encoder.encoders."),
    (r"\.attention\.position_proj\.", ".self_attn.linear_pos."),
    (r"\.attention\.(q|k|v|out)_proj\.", r".self_attn.linear_\1."),
    (r"\.attention\.content_bias$", ".self_attn.pos_bias_u"),
    (r"\.attention\.position_bias$", ".self_attn.pos_bias_v"),
    (r"^(encoder\..*)\.fc([12])\.", r"\1.feed_forward.w_\2."),
    (r"^(encoder\..*)\.attention_norm\.", r"\1.norm_mha."),
    (r"^(encoder\..*)\.mlp_norm\.", r"\1.norm_ff."),
    (r"^speaker_proj\.", "spk_embed_affine_layer."),
    # The published list has a convolution, a norm and an activation by turns, and a convolution at its end
    (r"^length_regulator\.convs\.(\d+)\.", lambda match: f"length_regulator.model.{3 * int(match[1])}."),
    (r"^length_regulator\.norms\.(\d+)\.", lambda match: f"length_regulator.model.{3 * int(match[1]) + 1}."),
    (r"^length_regulator\.out_proj\.", "length_regulator.model.12."),
    (r"^unet\.out_proj\.", "unet.final_proj."),
    (r"^unet\.final_conv\.", "unet.final_block.block.0."),
    (r"^unet\.final_norm\.", "unet.final_block.block.1."),
    (r"^unet\.time_proj([12])\.", r"unet.time_mlp.linear_\1."),
    (r"_levels\.(\d+)\.resnet\.conv([12])\.", r"_blocks.\1.0.block\2.block.0."),
    (r"_levels\.(\d+)\.resnet\.norm([12])\.", r"_blocks.\1.0.block\2.block.1."),
    (r"_levels\.(\d+)\.resnet\.time_proj\.", r"_blocks.\1.0.mlp.1."),
    (r"_levels\.(\d+)\.resnet\.residual_conv\.", r"_blocks.\1.0.res_conv."),
    (r"_levels\.(\d+)\.blocks\.(\d+)\.", r"_blocks.\1.1.\2."),
    # the last level has a plain convolution here, see `published_name`
    (r"_levels\.(\d+)\.resample\.", r"_blocks.\1.2.conv."),
    (r"^(unet\..*)\.attention_norm\.", r"\1.norm1."),
    (r"^(unet\..*)\.(q|k|v)_proj\.", r"\1.attn1.to_\2."),
    (r"^(unet\..*\.1\.\d+)\.out_proj\.", r"\1.attn1.to_out.0."),
    # `norm2` would belong to a cross-attention, which this model does not have
    (r"^(unet\..*)\.mlp_norm\.", r"\1.norm3."),
    (r"^(unet\..*)\.fc1\.", r"\1.ff.net.0.proj."),
    (r"^(unet\..*)\.fc2\.", r"\1.ff.net.2."),
    (r"^unet\.", "decoder.estimator."),
)
VOCODER_NAMES = (
    # The published list has a convolution and an activation by turns
    (r"^pitch_predictor\.convs\.(\d+)\.", lambda match: f"f0_predictor.condnet.{2 * int(match[1])}."),
    (r"^pitch_predictor\.out_proj\.", "f0_predictor.classifier."),
    (r"^source_proj\.", "m_source.l_linear."),
    (r"^upsamples\.", "ups."),
    (r"^source_downsamples\.", "source_downs."),
)

# Tensors that make no codes: those of training, and the layers after the codebook
UNUSED_TOKENIZER_TENSORS = r"ema_count|ema_weight|embed_positions2\.weight|layer_norm\.(weight|bias)|layers\.(\d+)\..*"


def convert(tokenizer_dir: str | Path, decoder_dir: str | Path, output_dir: str | Path) -> Path:
    """
    Converts the two checkpoints. Everything is checked before anything is written, and `output_dir` gets its files at
    the end, when all are written: where anything goes wrong, such as a full disk, there is nothing new.

    No code that the files name is run: tags of the YAML are read as names, and pickles may hold tensors alone.

    Args:
        tokenizer_dir: folder or Hub id with `config.json`, `preprocessor_config.json` and safetensors.
        decoder_dir: folder or Hub id with `config.yaml`, `flow.pt` and `hift.pt`.
        output_dir: folder to write to; it must not exist or be empty.

    Returns:
        `Path`: the folder, which `Glm4VoiceCodec.from_pretrained` loads.

    Raises:
        ValueError: `output_dir` is not empty, a file is missing or broken or names code to run, or the checkpoints are
            of another architecture than this codec.
        OSError: a checkpoint cannot be found or read, or the output cannot be written.
    """
    output_dir = Path(output_dir).absolute()
    check_is_free(output_dir)
    tokenizer_dir = find_folder(tokenizer_dir, ["config.json", "preprocessor_config.json", "*.safetensors"])
    decoder_dir = find_folder(decoder_dir, ["config.yaml", "flow.pt", "hift.pt"])
    config = convert_config(tokenizer_dir, decoder_dir)
    # Only names and shapes are needed before the published tensors take their places
    with torch.device("meta"):
        codec = Glm4VoiceCodec(config)
    weights, problems = {}, []
    tokenizer_tensors = used_tokenizer_tensors(load_safetensors(tokenizer_dir), config.tokenizer_config.encoder_layers)
    for part, rules, published in (
        ("tokenizer", TOKENIZER_NAMES, tokenizer_tensors),
        ("flow", FLOW_NAMES, load_pickle(decoder_dir / "flow.pt")),
        ("vocoder", VOCODER_NAMES, load_pickle(decoder_dir / "hift.pt")),
    ):
        expected = codec.get_submodule(part).state_dict()
        sources = {name: published_name(name, rules, config) for name in expected}
        found, shapes = fuse_weight_norm(published), {sources[name]: tensor.shape for name, tensor in expected.items()}
        if misfit := compare_shapes(shapes, {name: tensor.shape for name, tensor in found.items()}):
            problems.append(f"In the {part}'s weights {misfit}.")
        else:
            weights |= {f"{part}.{name}": found[source].float() for name, source in sources.items()}
    if problems:
        raise ValueError(f"The weights do not fit the configuration. {' '.join(problems)}")
    # `assign`, because nothing can be copied into parameters on the meta device
    codec.load_state_dict(weights, assign=True)
    codec.save_pretrained(output_dir)
    return output_dir


# Reading files as data


def read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error


class HyperPyYamlLoader(yaml.SafeLoader):
    """
    Reads HyperPyYAML, whose tags construct objects, as data. A mapping with the tag `!new:package.Class` gets that
    name under the key `"!"`, and `!ref <key>` stands for the value of the key. A tag that names code of a package that
    the published decoder does not use is refused.
    """


# The packages whose classes the published file names, and the functions that it calls to seed random numbers
KNOWN_PACKAGES = ("cosyvoice", "matcha", "omegaconf", "whisper")
KNOWN_CALLS = ("random.seed", "numpy.random.seed", "torch.manual_seed", "torch.cuda.manual_seed_all")


def construct_named(loader: HyperPyYamlLoader, suffix: str, node: yaml.Node) -> dict:
    kind, _, name = suffix.partition(":")
    is_known = name.partition(".")[0] in KNOWN_PACKAGES if kind in ("new", "name") else name in KNOWN_CALLS
    if suffix == "ref" and isinstance(node, yaml.ScalarNode):
        return {"!ref": node.value}
    if kind not in ("new", "name", "apply") or not is_known:
        raise yaml.constructor.ConstructorError(None, None, f"the tag !{suffix} is refused", node.start_mark)
    if isinstance(node, yaml.MappingNode):
        # Without `deep`, PyYAML fills nested lists and mappings only after this function has returned
        return {"!": name, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return {"!": name, "arguments": loader.construct_sequence(node, deep=True)}
    return {"!": name}


HyperPyYamlLoader.add_multi_constructor("!", construct_named)


def read_yaml(path: Path) -> dict:
    """
    Raises:
        ValueError: the file is not valid YAML, or has a tag that is refused, see [`HyperPyYamlLoader`].
    """
    try:
        content = yaml.load(read_text(path), Loader=HyperPyYamlLoader)
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} is not valid YAML, or has more than data in it: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping, got {type(content).__name__}.")
    return content


def load_safetensors(folder: Path) -> dict[str, torch.Tensor]:
    """Loads the tensors of all safetensors files in a folder."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ValueError(f"{folder} has no safetensors file.")
    tensors = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is broken or not complete: {error}") from error
    return tensors


def load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """
    Loads the tensors of a file that `torch.save` has written.

    Raises:
        ValueError: the file is missing, broken or not complete, or holds more than tensors by name.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}.")
    with path.open("rb") as file:
        # PyTorch writes zip archives since 1.6; older files have another format and are read, too
        is_archive = file.read(2) == b"PK"
    # A zip file has its directory at the end, which is missing where the file was cut off
    if is_archive and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is broken or not complete.")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is broken, or holds more than tensors, which is refused: {reason}") from error
    # `torch.load` raises all of these for broken files
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is broken or not complete: {error}") from error
    is_named = isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
    if not is_named or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} must hold tensors by their names, and holds something else.")
    return dict(tensors)


# Converting configurations and names


def convert_config(tokenizer_dir: Path, decoder_dir: Path) -> Glm4VoiceCodecConfig:
    """
    Raises:
        ValueError: the files lack a value, or have one that this codec does not support. All such values are named.
    """
    # All that does not fit is collected, so that one error names it
    problems = []
    path = tokenizer_dir / "config.json"
    tokenizer = read_section(path, read_json(path), "", TOKENIZER_VALUES, TOKENIZER_KEYS, problems)
    published = read_json(path)
    if published.get("pooling_position") != published.get("quantize_position"):
        problems.append(f"{path}: pooling_position must be quantize_position, the layer after which codes are made")
    path = tokenizer_dir / "preprocessor_config.json"
    values = {**FEATURE_EXTRACTOR_VALUES, "feature_size": published.get("num_mel_bins")}
    read_section(path, read_json(path), "", values, {}, problems)
    path = decoder_dir / "config.yaml"
    content = read_yaml(path)
    flow = read_section(path, content, "flow", FLOW_VALUES, FLOW_KEYS, problems)
    vocoder = read_section(path, content, "hift", VOCODER_VALUES, VOCODER_KEYS, problems)
    if problems:
        raise ValueError(f"The checkpoints are not of this codec's architecture: {'; '.join(problems)}.")
    try:
        return Glm4VoiceCodecConfig(tokenizer_config=tokenizer, flow_config=flow, vocoder_config=vocoder)
    # For a value of a wrong type, `@strict` raises an exception that is no ValueError
    except Exception as error:
        raise ValueError(f"{tokenizer_dir} and {decoder_dir} have values that do not fit: {error}") from error


def read_section(
    path: Path, content: dict, section: str, values: dict, keys: dict[str, str], problems: list[str]
) -> dict:
    """
    Reads a part of a published configuration.

    Args:
        path: the file, to be named in `problems`.
        content: the content of the file.
        section: the key of the part, empty for the whole file.
        values: the values that the part must have, by its keys.
        keys: our keys, by those of the part.
        problems: the list that what is wrong is appended to.

    Returns:
        `dict`: values by our keys.
    """
    found = {}
    for key in [*values, *keys]:
        value = content
        for name in filter(None, [section, *key.split(".")]):
            value = value.get(name) if isinstance(value, dict) else None
        # `!ref <key>` stands for the value of a key at the top of the file
        if isinstance(value, dict) and "!ref" in value:
            value = content.get(value["!ref"].strip("<> "))
        full_key = ".".join(filter(None, [section, key]))
        if key in keys and value is None:
            problems.append(f"{path} does not say {full_key}")
        elif key in keys and not is_value(value):
            problems.append(f"{path}: {full_key} must be a value or a list, got {reprlib.repr(value):.100}")
        elif key in keys:
            found[keys[key]] = value
        elif value != values[key]:
            problems.append(f"{path}: {full_key} must be {values[key]!r}, got {reprlib.repr(value):.100}")
    return found


def is_value(value: object, depth: int = 2) -> bool:
    """Whether something is a number, a name, a list of them or a list of such lists."""
    if isinstance(value, list):
        return depth > 0 and all(is_value(item, depth - 1) for item in value)
    return isinstance(value, (int, float, str))


def used_tokenizer_tensors(tensors: dict[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """Leaves out `UNUSED_TOKENIZER_TENSORS`, of which layers are those from the codebook on."""

    def is_unused(name: str) -> bool:
        match = re.fullmatch(UNUSED_TOKENIZER_TENSORS, name)
        return match is not None and (match[2] is None or int(match[2]) >= num_layers)

    return {name: tensor for name, tensor in tensors.items() if not is_unused(name)}


def published_name(name: str, rules: tuple, config: Glm4VoiceCodecConfig) -> str:
    """The published name of a tensor in a part of the codec, whose names follow `rules`."""
    last_level = len(config.flow_config.unet_hidden_sizes) - 1
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    if rules is FLOW_NAMES:
        name = re.sub(rf"_blocks\.{last_level}\.2\.conv\.", f"_blocks.{last_level}.2.", name)
    if rules is VOCODER_NAMES:
        # published residual blocks are one list for all upsamplings; ours are a list for each
        num_kernels = len(config.vocoder_config.resblock_kernel_sizes)
        name = re.sub(
            r"^resblocks\.(\d+)\.(\d+)\.",
            lambda match: f"resblocks.{int(match[1]) * num_kernels + int(match[2])}.",
            name,
        )
    return name


def fuse_weight_norm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replaces `weight_g` and `weight_v`, which weight normalization stores a weight as, by the weight."""
    fused = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name[:-2]}_g")
        if name.endswith(".weight_v") and scale is not None and scale.shape == (len(tensor), 1, 1):
            # The norm of each output channel, as `torch.nn.utils.weight_norm` has it by default
            norm = tensor.float().flatten(1).norm(dim=1)[:, None, None]
            fused[name[:-2]] = tensor.float() * (scale.float() / norm)
        elif not (name.endswith(".weight_g") and f"{name[:-2]}_v" in tensors):
            fused[name] = tensor
    return fused


def main(argv: list[str] | None = None) -> int:
    """
    Runs the command.

    Returns:
        `int`: 0, or 1 where it failed, after one line on the standard error that says why.
    """
    return run_command(convert_as_told, PROG, argv)


def convert_as_told(argv: list[str] | None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer_dir", required=True, help="folder or Hub id of the published tokenizer")
    parser.add_argument("--decoder_dir", required=True, help="folder or Hub id of the published decoder")
    parser.add_argument("--output_dir", required=True, help="a folder that does not exist or is empty")
    arguments = parser.parse_args(argv)
    print(convert(arguments.tokenizer_dir, arguments.decoder_dir, arguments.output_dir))


if __name__ == "__main__":
    sys.exit(main())
