"""Every setting reads flag over variable over file over default, and is checked."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.catalogue import as_flags, defining, settings
from trainer.config import DEFINING, TrainConfig
from trainer.settings import UsageError, UsageParser, add_settings, read_config


def parse(*arguments, environment=None, file=None):
    parser = UsageParser(prog="trainer")
    add_settings(parser)
    flags = vars(parser.parse(list(arguments)))
    return read_config(flags, environment or {}, file)


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return to_file


def test_the_flag_beats_the_variable_beats_the_file_beats_the_default(write):
    file = write("steps = 3\nlr = 0.5\nseed = 7\n")
    environment = {"OPSDASH_STEPS": "4", "OPSDASH_LR": "0.25"}

    config = parse("--steps", "5", environment=environment, file=file)

    assert (config.steps, config.lr, config.seed) == (5, 0.25, 7)
    assert config.layers == TrainConfig().layers


def test_switches_have_two_flags_and_words_as_values(write):
    assert parse("--save-best").save_best is True
    assert parse("--no-save-best", environment={"OPSDASH_SAVE_BEST": "true"}) == (
        TrainConfig()
    )
    assert parse(environment={"OPSDASH_SAVE_BEST": "1"}).save_best is True
    assert parse(file=write("save_best = true")).save_best is True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps", "many"], "`--steps` is `many`: expected `int`"),
        (["--lr", "-1"], "`--lr` is `-1`: expected `float` > 0.0"),
        (["--timeout-s", "inf"], "`--timeout-s` is `inf`: it has to be finite"),
        (["--lr", "nan"], "`--lr` is `nan`: expected `float` > 0.0"),
        (["--amp", "fp8"], "`--amp` is `fp8`: invalid enum value 'fp8'"),
        (["--stpes", "5"], "unknown argument `--stpes`: did you mean `--steps`"),
        (["--step", "5"], "unknown argument `--step`: did you mean `--steps`"),
        (["--steps=5", "extra"], "unknown argument `extra`"),
        (["--width", "50"], "`--width` 50 is not a multiple of `--heads` 4"),
        (["--steps", "0"], "neither `--steps` nor `--max-epochs` ends this run"),
        (["--fix-iter", "5"], "needs `--static-graph`"),
        (["--steps"], "expected one argument"),
    ],
)
def test_a_wrong_flag_is_refused_with_what_was_meant(arguments, told):
    with pytest.raises(UsageError) as caught:
        parse(*arguments)

    assert told in str(caught.value)
    assert caught.value.exit_code == 64


def test_what_people_set_for_nccl_is_the_time_out_where_nothing_else_is(monkeypatch):
    monkeypatch.setenv("NCCL_TIMEOUT", "77")

    assert parse(environment=os.environ).timeout_s == 77
    assert parse("--timeout-s", "5", environment=os.environ).timeout_s == 5
    with pytest.raises(UsageError, match="`NCCL_TIMEOUT` is `soon`"):
        parse(environment={"NCCL_TIMEOUT": "soon"})


def test_a_wrong_variable_is_named():
    with pytest.raises(UsageError, match="`OPSDASH_STEPS` is `x`"):
        parse(environment={"OPSDASH_STEPS": "x"})


@pytest.mark.parametrize("name", ["OPSDASH_STEP", "OPSDASH_BATCHSIZE", "OPSDASH_SEEDS"])
def test_a_misspelt_variable_is_refused(name):
    with pytest.raises(UsageError, match=f"unknown variable `{name}`: did you mean"):
        parse(environment={name: "1"})


def test_variables_of_other_parts_are_left_alone():
    environment = {"OPSDASH_AGENT": "off", "OPSDASH_THEME": "dark", "PATH": "x"}

    assert parse(environment=environment) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stps = 3", "unknown key `stps`: did you mean `steps`"),
        ("steps = 'x'", "`steps in "),
        ("steps = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused(write, text, told):
    with pytest.raises(UsageError) as caught:
        parse(file=write(text))

    assert told in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read as TOML"):
        parse(file=tmp_path / "none.toml")


def test_every_setting_is_documented_with_its_default():
    parser = UsageParser(prog="trainer")
    add_settings(parser)
    text = " ".join(parser.format_help().split())

    for setting in settings():
        assert setting.description.split()[0] in text
        assert setting.flag in text
    assert text.count("(default:") == len(settings())


CONFIGS = st.builds(
    TrainConfig,
    steps=st.integers(1, 9),
    lr=st.floats(1e-6, 1.0),
    save_best=st.booleans(),
    amp=st.sampled_from(["off", "bf16", "fp16"]),
    resume=st.sampled_from(["auto", "never", "step-00000003"]),
    init_from=st.sampled_from(["", "a file.pt"]),
)


@given(CONFIGS)
def test_a_configuration_made_into_flags_is_read_back(config):
    assert parse(*as_flags(config)) == config


def test_a_default_that_overrules_a_variable_becomes_a_flag(monkeypatch):
    monkeypatch.setenv("OPSDASH_STEPS", "7")

    assert as_flags(TrainConfig()) == ["--steps", str(TrainConfig().steps)]


def test_what_defines_a_run_is_what_is_trained_and_not_how():
    names = set(defining(TrainConfig()))

    assert {"steps", "lr", "seed", "layers", "corpus_bytes", "schedule"} <= names
    assert names.isdisjoint({"save_every", "keep", "resume", "timeout_s", "log_every"})
    assert names == {s.name for s in settings() if s.section in DEFINING}


def test_sections_can_be_left_out_of_what_defines_a_run():
    names = set(defining(TrainConfig(), leave_out=("model", "data")))

    assert "layers" not in names
    assert "corpus_bytes" not in names
    assert "steps" in names


def test_the_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 3
