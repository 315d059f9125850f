# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Dialogues: the model answers turn after turn, after its own answers, and each turn is counted; noise."""

import json
from dataclasses import replace

import pytest

from processing.conversation_vita_audio import SpeechCodes
from training.evaluation import evaluate_benchmarks, evaluate_held_out
from training.evaluation.dialogues import build_items, with_responses
from training.evaluation.harness import ResponseLog, build_prompts, load_audios, read_sets, respond, score


ASKED_BACK = "Sorry, could you repeat that?"


@pytest.fixture(scope="module")
def dialogue_dir(corpus_dir, tmp_path_factory):
    """Two dialogues, of three and of two turns, and a recording of noise, of the tones of the small corpus."""
    folder = tmp_path_factory.mktemp("dialogues")
    paths = [str(path) for path in sorted(corpus_dir.glob("*.flac"))]
    rows = []
    for number, num_turns in enumerate((3, 2)):
        messages, turns = [{"role": "system", "content": "Be short."}], []
        for turn in range(num_turns):
            messages += [
                {"role": "user", "content": "<|audio|>"},
                {"role": "assistant", "content": f"It is {turn}.<|audio|>"},
            ]
            turns.append({"reference": f"It is {turn}.", "answer": str(turn), "accepted_answers": [str(turn)]})
        row = {"id": f"d{number}", "task": "dialogue", "split": "test", "messages": messages, "turns": turns}
        rows.append(row | {"audios": paths[: 2 * num_turns]})
    messages = [{"role": "user", "content": "<|audio|>"}, {"role": "assistant", "content": ASKED_BACK + "<|audio|>"}]
    noise = {"id": "n", "task": "noise", "split": "test", "messages": messages, "audios": paths[:2]}
    rows.append(noise | {"reference": ASKED_BACK})
    (folder / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def items(dialogue_dir):
    return build_items(read_sets(dialogue_dir, "test")["dialogue"])


def test_a_turn_of_the_assistant_is_an_item(items, dialogue_dir):
    assert [item.id for item in items] == ["d0/1", "d1/1", "d0/2", "d1/2", "d0/3"]
    (first, *_), last = items, items[-1]
    assert [message["role"] for message in first.messages] == ["system", "user"] and first.earlier == ()
    assert last.earlier == ("d0/1", "d0/2") and last.reference == "It is 2." and last.accepted_answers == ("2",)
    # the users' audios, and none of the assistant's
    (row, _) = read_sets(dialogue_dir, "test")["dialogue"]
    assert last.audios == row["audios"][::2]
    assert [message["content"] for message in last.messages if message["role"] == "assistant"] == [[], []]


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_model_answers_after_its_own_answers(items, model, processor, batch_size):
    log = ResponseLog()
    respond(model, processor, items, log, batch_size, mctp_mode="boost", max_new_tokens=12)
    assert list(log.rows) == [item.id for item in items]
    assert any(row["audio_codes"] for row in log.rows.values())
    # once more by hand
    *_, last = items
    messages = []
    for message, answer in zip(last.messages, [None, None, log.rows["d0/1"], None, log.rows["d0/2"], None]):
        content = message["content"]
        if answer is not None:
            content = [{"type": "text", "text": answer["text"]}] if answer["text"] else []
            content += [{"type": "audio", "codes": answer["audio_codes"]}] if answer["audio_codes"] else []
        messages.append({"role": message["role"], "content": content})
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    sequences = model.generate(**inputs, do_sample=False, mctp_mode="boost", max_new_tokens=12)
    (response,) = processor.post_process_generation(sequences[:, inputs["input_ids"].shape[1] :])
    assert {key: log.rows["d0/3"][key] for key in response} == response


def test_other_answers_make_another_prompt(items, processor):
    item = items[-1]
    prompts = []
    for text, codes in (("one", [1, 2, 3]), ("two", [1, 2, 3]), ("one", [3, 2, 1]), ("one", []), ("", [])):
        responses = dict.fromkeys(item.earlier, {"text": text, "audio_codes": codes})
        told, seconds = load_audios(processor, with_responses(item, responses))
        # what the model wrote itself is not heard
        assert seconds == sum(len(audio) for audio in told.audios if not isinstance(audio, SpeechCodes)) / 16000
        assert sum(isinstance(audio, SpeechCodes) for audio in told.audios) == 2 * bool(codes)
        prompts.append(tuple(build_prompts(processor, [told])["input_ids"][0].tolist()))
    assert len(set(prompts)) == len(prompts)


def test_each_turn_is_counted(items):
    texts = {"d0/1": "It is 0.", "d1/1": "It is 1.", "d0/2": "It is 1.", "d1/2": "It is 1.", "d0/3": "No."}
    heard = {"d0/1": "it is zero", "d1/1": "it is zero", "d0/2": "", "d1/2": "it is one", "d0/3": "it is two"}
    responses = {key: {"text": text} for key, text in texts.items()}
    transcripts = {key: {"heard": text, "dnsmos": 3.0} for key, text in heard.items()}
    transcripts["d0/1"]["dnsmos"] = 4.0
    del transcripts["d0/2"]["dnsmos"]
    figures, lines = score("dialogue", items, responses, transcripts)
    assert figures == {
        "conversations": 2,
        "text_accuracy": 3 / 5,
        "text_accuracy_turn_1": 0.5,
        "text_accuracy_turn_2": 1.0,
        "text_accuracy_turn_3": 0.0,
        "speech_accuracy": 4 / 5,
        "speech_accuracy_turn_1": 1.0,
        "speech_accuracy_turn_2": 0.5,
        "speech_accuracy_turn_3": 1.0,
        "dnsmos": 3.25,
    }
    assert len(lines) == 5

    # an answer in writing is not to be heard
    last = max(range(5), key=lambda index: len(items[index].earlier))
    written = [replace(item, is_spoken=index != last) for index, item in enumerate(items)]
    figures, _ = score("dialogue", written, responses, transcripts)
    assert figures["speech_accuracy"] == 3 / 4 and "speech_accuracy_turn_3" not in figures
    assert figures["text_accuracy"] == 3 / 5 and figures["text_accuracy_turn_3"] == 0


def test_who_asks_back_is_right(dialogue_dir):
    (item,) = build_items(read_sets(dialogue_dir, "test")["noise"])
    for text, accuracy in (("sorry could you repeat that", 1), ("Two.", 0), (f"{ASKED_BACK} Two.", 0), ("", 0)):
        figures, _ = score("noise", [item], {"n": {"text": text}}, {})
        assert figures == {"conversations": 1, "accuracy": accuracy}


def test_turns_that_do_not_fit_are_named(dialogue_dir):
    row = read_sets(dialogue_dir, "test")["dialogue"][0]
    with pytest.raises(ValueError, match="dialogue d0 has 3 turns of the assistant, but 2 `turns`"):
        build_items([row | {"turns": row["turns"][:2]}])
    with pytest.raises(ValueError, match="dialogue d0 has a turn without words"):
        build_items([row | {"turns": [*row["turns"][:2], row["turns"][2] | {"reference": "?"}]}])


@pytest.mark.parametrize("turns", ["one", ["one"], [{"reference": "one"}], [{"accepted_answers": ["one"]}]])
def test_turns_that_say_nothing_are_refused(turns, tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "turns": turns}
    (tmp_path / "conversations.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="line 1 is not a conversation: `turns` must be"):
        read_sets(tmp_path, "test")


@pytest.mark.slow
def test_both_commands_score_dialogues_alike(dialogue_dir, model_dir, tiny_ctc_dir, tmp_path):
    common = ["--model", str(model_dir), "--dataset_name", str(dialogue_dir), "--recognizer", str(tiny_ctc_dir)]
    common += ["--max_new_tokens", "16", "--mode", "boost", "--output_dir", str(tmp_path)]
    evaluate_held_out.main([*common, "--sets", "dialogue", "noise"])
    figures = json.loads((tmp_path / "results.json").read_text())["modes"]["boost"]
    assert figures["speed"]["tokens_per_second"] > 0 and figures["dialogue"]["conversations"] == 2
    (tmp_path / "results.json").unlink()
    evaluate_benchmarks.main(common)
    benchmarks = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    of_dialogues = benchmarks[f"{dialogue_dir.name}_dialogue"]["boost"]
    assert {key: of_dialogues[key] for key in figures["dialogue"] if "accuracy" in key} == {
        key: value for key, value in figures["dialogue"].items() if "accuracy" in key
    }
    assert benchmarks[f"{dialogue_dir.name}_noise"]["boost"]["accuracy"] == figures["noise"]["accuracy"]
