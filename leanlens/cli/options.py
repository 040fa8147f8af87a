"""Declares the options of commands with their help, and the panels that help groups them in."""

from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.plan.options import ENCODERS, OFFLOADS, QUANTS

# Panels, in the order in which help shows them.
IMAGE = "Image"
SOURCE = "Starting from an image"
MODEL = "Model"
DEVICE = "Device and memory"
SPEED = "Speed"
OUTPUT = "Output"
NETWORK = "Network and access"
LIMITS = "Queue and limits"
SAFETY = "Safety filters"

MODELS = "nano, turbo, rl, base, auto, a folder, a file, a repository id, or toy"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option with its help, in a panel."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def flag(panel: str, name: str, text: str) -> Any:
    """--name and --no-name, so that a default of either kind can be turned around."""
    return option(panel, text, f"--{name}/--no-{name}")


# ---------------------------------------------------------------------------------------------- the image

Prompt = Annotated[
    str | None, typer.Argument(help="What to draw. Without it: --prompts, or one prompt per line on standard input.")
]
Prompts = Annotated[Path | None, option(IMAGE, "Text file with one prompt per line; - reads standard input.")]
Seed = Annotated[
    int | None,
    option(
        IMAGE, "Seed of the first image of each prompt; later images count up. Default, and -1: a random one for "
        "each prompt.",
    ),
]  # fmt: skip
Number = Annotated[int, option(IMAGE, "Number of images for each prompt.", "-n", "--number")]
Size = Annotated[str | None, option(IMAGE, "Size in pixels, multiples of 16, such as 1024x768.", metavar="WxH")]
Aspect = Annotated[
    str | None, option(IMAGE, "Aspect ratio instead of a size: 1:1, 16:9, 2:3 and so on.", metavar="W:H")
]
Base = Annotated[
    int | None, option(IMAGE, "With --aspect: side of the square of the same area. Default: the model's own.")
]
Steps = Annotated[int | None, option(IMAGE, "Number of denoising steps. Default: the model's own.")]
Cfg = Annotated[float | None, option(IMAGE, "Guidance scale; 1 turns guidance off. Default: the model's own.")]
Negative = Annotated[str, option(IMAGE, "What the image should not show.")]
Date = Annotated[str | None, option(IMAGE, "Date in the text template, YYYY-MM-DD or today.")]
Exact = Annotated[
    bool, flag(IMAGE, "exact", "Run both guidance branches in one masked batch, as the released code does.")
]
SourceImage = Annotated[Path | None, option(SOURCE, "Image to start from.")]
SourceMask = Annotated[Path | None, option(SOURCE, "Mask of the same size as the image; white is repainted.")]
Strength = Annotated[
    float | None,
    option(SOURCE, "How far to move away from the image, above 0 and up to 1. Default: 0.6; with --mask, 1."),
]

# ---------------------------------------------------------------------------------------------- the model

ModelName = Annotated[str | None, option(MODEL, f"Model: {MODELS}. Default: nano.", "-m", "--model")]
Loras = Annotated[list[str] | None, option(MODEL, "LoRA file to apply. Repeatable.", metavar="FILE[:SCALE]")]
Transformer = Annotated[Path | None, option(MODEL, "Transformer to use instead of the model's own.")]
TextEncoder = Annotated[Path | None, option(MODEL, "Text encoder to use instead of the model's own.")]
Vae = Annotated[Path | None, option(MODEL, "Autoencoder to use instead of the model's own.")]
Tokenizer = Annotated[Path | None, option(MODEL, "Tokenizer to use instead of the model's own.")]
OfferedModels = Annotated[
    list[str] | None,
    option(MODEL, "Model to offer; the first is the default. Repeatable.", "-m", "--model"),
]
ModelFolders = Annotated[list[Path] | None, option(MODEL, "Folder of models to offer by name. Repeatable.")]
LoraFolders = Annotated[list[Path] | None, option(MODEL, "Folder of LoRA files to offer by name. Repeatable.")]
Reason = Annotated[
    str,
    option(
        MODEL, "Rewrite prompts into captions of the kind that the model learnt: default (where it states their kind) "
        "or off.", metavar="WORD",
    ),
]  # fmt: skip
ReasonOrAddress = Annotated[
    str,
    option(
        MODEL, "Rewrite prompts into captions of the kind that the model learnt: default (where it states their kind), "
        "off, or the address of a language model, URL#MODEL[,KEY=VALUE].", metavar="WORD",
    ),
]  # fmt: skip
ReasonPrompt = Annotated[
    str | None,
    option(
        MODEL, "System prompt of the language model of --reason: lens, geneval, text or a text file. Default: lens."
    ),
]

# ---------------------------------------------------------------------------------------------- device and speed

Device = Annotated[str, option(DEVICE, "Device: auto, cpu, cuda, cuda:1 or mps.")]
Devices = Annotated[
    list[str] | None, option(DEVICE, "Device: auto, cpu, cuda:0 and so on. Repeatable; one worker for each.")
]
Replicas = Annotated[int | None, option(DEVICE, "Number of devices of a Ray cluster to draw on.", metavar="N", min=1)]
Dtype = Annotated[str, option(DEVICE, "Precision: auto, bfloat16, float16 or float32.")]
Quant = Annotated[str, option(DEVICE, f"Quantisation of the denoiser: auto, {', '.join(QUANTS)}.")]
Offload = Annotated[str, option(DEVICE, f"What leaves the device while it is not needed: auto, {', '.join(OFFLOADS)}.")]
EncoderOn = Annotated[
    str, option(DEVICE, f"Where the text encoder runs: auto, {', '.join(ENCODERS)} (read layer by layer).")
]
TileVae = Annotated[
    bool, flag(DEVICE, "tile-vae", "Decode in small tiles: less memory, but pixels near the seams differ.")
]
Features = Annotated[
    Path | None,
    option(
        DEVICE, "Folder that caches text features, so that each prompt is encoded only once.",
        envvar="LEANLENS_FEATURES",
    ),
]  # fmt: skip
MemoryLimit = Annotated[
    float | None,
    option(
        DEVICE, "Memory that drawing may take on each device; 0 turns the check off. Default: what is free.",
        metavar="GB",
    ),
]  # fmt: skip
IdleUnload = Annotated[
    float | None, option(DEVICE, "Seconds without work until the model is unloaded. Default: never.")
]
Compile = Annotated[bool, flag(SPEED, "compile", "Compile the transformer: a slow start, then faster steps.")]
Attention = Annotated[
    str | None, option(SPEED, "Attention kernel by its name in diffusers, or auto.", metavar="KERNEL")
]
Fp8 = Annotated[bool, flag(SPEED, "fp8", "Multiply in float8: faster on recent GPUs, but a different image.")]
Cache = Annotated[
    str | None,
    option(SPEED, "Step cache, such as taylor:2 or first-block:0.1: faster, but a different image.", metavar="WORD"),
]
GuidedShare = Annotated[
    float, option(SPEED, "Share of the steps that use guidance; below 1 is faster, but a different image.")
]
Share = Annotated[
    str | None,
    option(SPEED, "With torchrun: how several GPUs draw one image together, guidance or tensor.", metavar="WORD"),
]

# ---------------------------------------------------------------------------------------------- output

OutputPattern = Annotated[
    str | None,
    option(
        OUTPUT, "File to write (.png, .jpg, .webp). The name may contain {seed}, {index} and {prompt}.",
        "-o", "--output",
    ),
]  # fmt: skip
Preview = Annotated[
    Path | None, option(OUTPUT, "Image file to rewrite after every step while drawing.", metavar="FILE")
]
Marking = Annotated[bool, flag(OUTPUT, "marking", "Mark files as made by a model (IPTC, in XMP).")]
AsJson = Annotated[bool, flag(OUTPUT, "json", "Print JSON instead of text.")]
JsonForEachImage = Annotated[bool, flag(OUTPUT, "json", "Print one JSON line for each image.")]
ServedFolder = Annotated[Path, option(OUTPUT, "Folder for images, uploads and the index of jobs.", "-o", "--output")]
KeepDays = Annotated[float, option(OUTPUT, "Days until an image is removed; 0 keeps it for ever.")]
KeepPictures = Annotated[int, option(OUTPUT, "Number of newest images to keep; 0 keeps all.")]
LogFormat = Annotated[
    str, option(OUTPUT, "Format of the log: text, json, or auto (text on a terminal, JSON elsewhere).")
]

# ---------------------------------------------------------------------------------------------- evaluation

ResultsFolder = Annotated[
    Path,
    option(
        OUTPUT, "Folder of the evaluation: images, judgements, results.json, table.md and report.html. The same folder "
        "continues it, or adds a model.", "-o", "--out",
    ),
]  # fmt: skip
ComparedModels = Annotated[
    list[str] | None,
    option(
        MODEL, f"Model to compare: {MODELS}; the folder or repository id of a diffusers pipeline; or an "
        "OpenAI-compatible images endpoint, as its address with #MODEL. Repeatable. Default: nano.", "-m", "--model",
        metavar="[NAME=]MODEL[+LORA[:SCALE]][,KEY=VALUE]",
    ),
]  # fmt: skip
NumPrompts = Annotated[
    int | None,
    option(
        IMAGE, "Number of prompts. Default: 200 of scenes and fresh; all of other suites and of a file.", "-n", "--num"
    ),
]
SeedsOfPrompt = Annotated[int, option(IMAGE, "Images of each prompt, with a seed each; rates are means over them.")]
EvaluationSeed = Annotated[int, option(IMAGE, "Seed of the prompts and of the images.")]
PromptKind = Annotated[
    str,
    option(
        IMAGE, "Prompts to use: dense or brief captions of held-out scenes, human, written by people, or a file with a "
        "JSON object of prompt and truth on each line.",
    ),
]  # fmt: skip
ComparedReasons = Annotated[
    list[str] | None,
    option(
        IMAGE, "Rewriting of the prompts before they are drawn: off, default, or the address of a language model, "
        "URL#MODEL[,KEY=VALUE]. Repeat it to compare. Default: off.",
    ),
]  # fmt: skip
Real = Annotated[bool, flag(IMAGE, "real", "Score the true images too.")]
Reconstruction = Annotated[bool, flag(IMAGE, "reconstruction", "Score the true images after the autoencoder too.")]
Beside = Annotated[list[Path] | None, option(OUTPUT, "results.json of another evaluation to print too. Repeatable.")]
KeptImages = Annotated[
    Path | None, option(OUTPUT, "Folder of drawn images that several evaluations share. Default: that of --out.")
]
ImageFolders = Annotated[
    list[str] | None,
    option(
        MODEL, "Folder of images drawn elsewhere, compared like a model's: named as `leanlens evaluate prompts` says. "
        "Repeatable.", metavar="[NAME=]FOLDER",
    ),
]  # fmt: skip
EvaluationDevices = Annotated[
    list[str] | None,
    option(DEVICE, "Device: auto, cpu, cuda:0 and so on. Repeatable; each draws a part of the images.", "--device"),
]
Shard = Annotated[
    str | None,
    option(DEVICE, "Draw only part I of N, counted from 1, for other machines to draw the rest.", metavar="I/N"),
]
Judges = Annotated[
    list[str] | None,
    option(
        IMAGE, "Vision model that judges, at an OpenAI-compatible endpoint. Repeatable; take two families.",
        metavar="[NAME=]URL#MODEL[,KEY=VALUE]",
    ),
]  # fmt: skip
Pairs = Annotated[
    bool, flag(IMAGE, "pairs", "Have --judge also compare the images of every two models, each pair in both orders.")
]
PublishedDate = Annotated[str, option(IMAGE, "Published text that the prompts are made from, such as a date.")]
FreshKind = Annotated[str, option(IMAGE, "Prompts to make: drawings, judged exactly, or photos, judged by --judge.")]
SeedsOfSuite = Annotated[
    int | None, option(IMAGE, "Images of each prompt. Default: the number of the official protocol.")
]
SuitePrompts = Annotated[
    str | None, option(IMAGE, "Which prompts, where the suite has several sets, or the file of your own.")
]
SuiteData = Annotated[
    Path | None, option(IMAGE, "Folder with the files of the suite. Default: they are downloaded and checked.")
]
SuiteSize = Annotated[int | None, option(IMAGE, "Side of the images in pixels. Default: the model's own.")]
SuiteName = Annotated[str, typer.Argument(help="Name of the suite: scenes, fresh, geneval and so on.")]
PromptsFile = Annotated[Path, option(OUTPUT, "File to write, JSON Lines.", "-o", "--out")]
PromptsSeed = Annotated[str, option(IMAGE, "Seed of the prompts; for the suite fresh, a date.")]
ScorerCommand = Annotated[
    str | None,
    option(IMAGE, "Scorer of the suite that runs in a process of its own: one that is installed, or its command."),
]
InstalledScorer = Annotated[
    str | None, option(OUTPUT, "Scorer to install into an environment of its own.", metavar="NAME")
]
ScorerWeights = Annotated[
    Path | None, option(OUTPUT, "With --install: file of the weights, where they are not downloaded.", metavar="FILE")
]
ScorerPython = Annotated[
    str | None,
    option(OUTPUT, "With --install: Python that the environment is made with. Default: this one.", metavar="COMMAND"),
]
EvaluationFolder = Annotated[Path, typer.Argument(help="Folder of a finished evaluation.")]
RejudgedItems = Annotated[
    list[str] | None, option(OUTPUT, "Id of a prompt whose images are judged anew. Repeatable.", metavar="ID")
]
Canvas = Annotated[int | None, option(IMAGE, "Base of the canvas in pixels. Default: the model's own.")]
Sources = Annotated[
    str | None, option(IMAGE, "Icons: full, sample, or the folder of a library. Default: full where it is here.")
]
ScorerNames = Annotated[
    list[str] | None,
    option(
        IMAGE, "Scorer: scene, crosscheck, one that an installed package adds, or MODULE:NAME of a class or function "
        "of yours. Repeatable; the first gives the headline. Default: scene.", "--scorer",
    ),
]  # fmt: skip

ResultsToTabulate = Annotated[
    Path | None, typer.Argument(help="Folder that `leanlens evaluate` wrote. Not needed with --published.")
]
ShownMetrics = Annotated[
    list[str] | None, option(OUTPUT, "Metric to show. Repeatable; all of them without it.", "--metric", metavar="NAME")
]
PublishedSuite = Annotated[
    str | None,
    option(
        OUTPUT, "Print the numbers that others published for a suite, such as geneval.", "--published", metavar="SUITE"
    ),
]

VotedFolder = Annotated[Path, typer.Argument(help="Folder that `leanlens evaluate` wrote, with images of two models.")]
VoteQuestions = Annotated[
    list[str] | None,
    option(
        IMAGE, "Question about each pair: prompt (which image follows it better), looks, or text (in which it is more "
        "correct). Repeatable. Default: prompt.",
    ),
]  # fmt: skip
PairsOfVoter = Annotated[
    int | None,
    option(IMAGE, "Pairs that each voter is asked, before repeats and gold pairs. Default: all.", "-n", "--num", min=1),
]
VoteToken = Annotated[
    str | None,
    option(
        NETWORK, "Token that the page's address must have where other machines can reach it.",
        envvar="LEANLENS_VOTE_TOKEN",
    ),
]  # fmt: skip
ExportedVotes = Annotated[
    Path | None, option(OUTPUT, "Write the votes to a .csv or .jsonl file instead of serving the page.", metavar="FILE")
]
VoteResults = Annotated[
    bool, flag(OUTPUT, "results", "Print the ranking and the checks of the voters instead of serving the page.")
]
ExcludeFailing = Annotated[
    bool, flag(OUTPUT, "exclude-failing", "With --results or --export: leave out voters who fail the checks.")
]

# ---------------------------------------------------------------------------------------------- the server

Host = Annotated[str, option(NETWORK, "Address to listen on; 0.0.0.0 is every address.")]
Port = Annotated[int, option(NETWORK, "Port to listen on.", min=0, max=65535)]
ApiKeys = Annotated[
    list[str] | None, option(NETWORK, "Key that clients must send. Repeatable.", envvar="LEANLENS_API_KEY")
]
Users = Annotated[
    list[str] | None,
    option(
        NETWORK, "Login for clients that speak HTTP Basic. Repeatable.", metavar="NAME:PASSWORD",
        envvar="LEANLENS_USER",
    ),
]  # fmt: skip
CorsOrigins = Annotated[
    list[str] | None, option(NETWORK, "Origin of a web page that may call, or *. Repeatable.", metavar="ORIGIN")
]
PublicUrl = Annotated[str | None, option(NETWORK, "Address that links to images begin with, behind a proxy.")]
TrustedProxies = Annotated[
    list[str] | None,
    option(NETWORK, "Proxy whose X-Forwarded-For is believed. Repeatable.", metavar="ADDRESS"),
]
WebPage = Annotated[bool, flag(NETWORK, "page", "Serve the web page at /.")]
Tools = Annotated[bool, flag(NETWORK, "tools", "Serve the tools for assistants at /mcp.")]
MaxBatch = Annotated[int, option(LIMITS, "Largest number of images drawn together; 1 turns batching off.")]
MaxQueue = Annotated[int, option(LIMITS, "Largest number of images that may wait.")]
Timeout = Annotated[float, option(LIMITS, "Seconds that a request may take, waiting included.")]
Rate = Annotated[int | None, option(LIMITS, "Requests a minute that one client may send. Default: any.")]
MaxPixels = Annotated[int, option(LIMITS, "Largest number of pixels of one image.")]
SafetyFilters = Annotated[str, option(SAFETY, "Filters to apply: off, prompt, picture or all. Images say which.")]
SafetyWords = Annotated[
    Path | None, option(SAFETY, "Words that --safety prompt refuses, instead of our list.", metavar="FILE")
]
SafetyScorer = Annotated[
    str,
    option(
        SAFETY, "Scorer of --safety picture: opennsfw, one that an installed package adds, or MODULE:NAME of a class.",
        metavar="NAME",
    ),
]  # fmt: skip
SafetyThreshold = Annotated[float, option(SAFETY, "Score from 0 to 1 below which an image is held back.")]

# ---------------------------------------------------------------------------------------------- recipes

Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one key of the recipe. Repeatable.")
]
