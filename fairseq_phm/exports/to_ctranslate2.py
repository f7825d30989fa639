"""A folder for CTranslate2, by way of fairseq's own Transformer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, List

import torch
from torch import nn

from ..errors import DataError
from ..rebuild import load_dictionary, longest_source
from . import QUANTIZATIONS, needs
from .source import BEAM, Source, translated

SENTENCEPIECE = "sentencepiece.model"
EXAMPLE = f'''"""Translate lines of standard input: python example.py < text"""
import sys
from pathlib import Path

import ctranslate2

folder = Path(__file__).resolve().parent
translator = ctranslate2.Translator(str(folder), device="cpu")
split, join = str.split, " ".join
if (folder / "{SENTENCEPIECE}").exists():
    import sentencepiece
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.Load(str(folder / "{SENTENCEPIECE}"))
    split, join = pieces.EncodeAsPieces, pieces.DecodePieces
for line in sys.stdin:
    result = translator.translate_batch(
        [split(line)], beam_size={BEAM}, max_input_length=READ, max_decoding_length=MADE
    )[0]
    print(join(result.hypotheses[0]), flush=True)
'''


def export(source: Source, folder: Path, quantization: str = "float32") -> str:
    """Write the folder and compare CTranslate2's scores with fairseq's.

    Args:
        source: an encoder-decoder Transformer, PHM or dense, with dictionaries.
        folder: an empty one.
        quantization: of :data:`QUANTIZATIONS`.

    Returns:
        One line on the comparison.

    Raises:
        DataError: a model that CTranslate2 cannot convert, or scores that differ.
    """
    ctranslate2 = needs("ctranslate2")
    source.refuse_other_decoders("CTranslate2")
    _convert(source, folder, quantization)
    for path in dict.fromkeys(source.dictionaries):
        shutil.copy(path, folder / path.name)
    if source.sentencepiece:
        shutil.copy(source.sentencepiece, folder / SENTENCEPIECE)
    example = EXAMPLE.replace("READ", str(longest_source(source.rebuilt.model)))
    example = example.replace("MADE", str(min(256, _positions(source) - 2)))
    (folder / "example.py").write_text(example, encoding="utf-8")
    # The weights are read as they are stored: "default" keeps their type.
    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type="default", intra_threads=1
    )
    return _compare(source, translator, QUANTIZATIONS[quantization])


def _convert(source: Source, folder: Path, quantization: str) -> None:
    """Let CTranslate2 convert the dense model, as its converter for fairseq does.

    The converter itself would build the model anew of its options, which do not tell
    the width of attention.
    """
    from ctranslate2.converters import fairseq as rules
    from ctranslate2.converters.converter import Converter

    dense = source.dense()
    vocabularies = [load_dictionary(source.dictionaries[i]) for i in (0, -1)]

    class ConvertedModel(Converter):
        def _load(self) -> Any:
            spec = rules._get_model_spec(dense.args)
            _tell_widths_of_heads(spec.encoder, dense.model.encoder)
            _tell_widths_of_heads(spec.decoder, dense.model.decoder)
            rules.set_transformer_encoder(spec.encoder, dense.model.encoder)
            rules.set_transformer_decoder(spec.decoder, dense.model.decoder)
            source_words, target_words = map(rules._get_vocab, vocabularies)
            spec.register_source_vocabulary(source_words)
            spec.register_target_vocabulary(target_words)
            spec.config.decoder_start_token = spec.config.eos_token
            spec.config.add_source_eos = True
            return spec

    try:
        with torch.no_grad():
            ConvertedModel().convert(str(folder), quantization=quantization, force=True)
    except (
        AttributeError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # AttributeError: of layers that it has no name for
        reason = " ".join(str(error).split())
        raise DataError(
            f"{source.path}: CTranslate2 cannot convert this model: {reason}"
        ) from None


def _tell_widths_of_heads(spec: Any, stack: nn.Module) -> None:
    """Tell those that are not the width of the embeddings over the number of heads.

    Older versions of CTranslate2 cannot be told.
    """
    from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec

    names = {"self_attn": "self_attention", "encoder_attn": "attention"}
    for layer_spec, layer in zip(spec.layer, stack.layers):
        for name, theirs in names.items():
            attention = getattr(layer, name, None)
            if attention and attention.embed_dim != attention.out_proj.out_features:
                made = MultiHeadAttentionSpec(
                    self_attention=name == "self_attn", head_dim=attention.head_dim
                )
                setattr(layer_spec, theirs, made)


def _positions(source: Source) -> int:
    return getattr(source.rebuilt.args, "max_target_positions", None) or 1024


def _compare(source: Source, translator: object, tolerance: float) -> str:
    """Score fairseq's hypotheses, and count equal ones.

    Raises:
        DataError: the mean difference of log-probabilities is above the tolerance.
    """
    words = [
        load_dictionary(source.dictionaries[i]).symbols for i in (0, -1)
    ]  # source, target

    def symbols(tokens: List[int], which: int) -> List[str]:
        return [words[which][token] for token in tokens]

    most = longest_source(source.rebuilt.model)
    difference, count, same = 0.0, 0, 0
    for sentence, target, expected in translated(source):
        texts = symbols(sentence, 0), symbols(target[:-1], 1)
        scored = translator.score_batch(
            [texts[0]], [texts[1]], max_input_length=most
        )[0]  # fmt: skip
        scores = torch.tensor(scored.log_probs)
        difference += float((scores - expected).abs().sum())
        count += len(scores)
        result = translator.translate_batch(
            [texts[0]], beam_size=BEAM, max_input_length=most,
            max_decoding_length=min(2 * len(sentence) + 12, _positions(source) - 2),
        )[0]  # fmt: skip
        same += result.hypotheses[0] == texts[1]
    mean = difference / count
    if not mean <= tolerance:
        raise DataError(
            f"{source.path}: CTranslate2's log-probabilities differ by {mean:.2g} in "
            f"the mean, more than {tolerance}"
        )
    return (
        f"{same} of {len(source.sentences)} hypotheses are fairseq's, "
        f"log-probabilities differ by {mean:.1g} in the mean"
    )
