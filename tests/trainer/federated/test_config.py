"""Settings come from flag, variable, file or default, in that order, or are refused."""

import pytest

from agent.rundir.errors import EXIT_USAGE
from trainer.catalogue import as_flags, settings
from trainer.federated.config import (
    FederatedConfig,
    client_keys,
    defining,
    round_rules,
)
from trainer.federated.settings import read_config
from trainer.settings import UsageError, UsageParser, add_settings


def parse(*arguments):
    parser = UsageParser(prog="test")
    add_settings(parser, FederatedConfig)
    known = parser.parse(list(arguments))
    return read_config(vars(known), {}, known.config)


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(tmp_path):
    file = tmp_path / "fl.toml"
    file.write_text("rounds = 7\nlr = 0.25\nclients = 4\n")
    environment = {"OPSDASH_ROUNDS": "8", "OPSDASH_LR": "0.5"}

    config = read_config({"rounds": "9"}, environment, file)

    assert (config.rounds, config.lr, config.clients) == (9, 0.5, 4)
    assert config.batch_size == FederatedConfig().batch_size


def test_the_flags_of_a_configuration_make_it_again(tmp_path):
    config = parse(
        *("--rounds", "9", "--data", str(tmp_path), "--average-buffers"),
        *("--policy", "decay", "--lr", "0.125", "--round-limit-s", "2.5"),
    )

    assert config != FederatedConfig()
    assert parse(*as_flags(config)) == config


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rounds", "0"], "`--rounds` is `0`"),
        (["--client-frac", "1.5"], "`--client-frac` is `1.5`"),
        (["--policy", "forget"], "`--policy` is `forget`"),
        (["--momentum", "1"], "`--momentum` is `1`"),
        (["--chunk-keep-rounds", "1"], "`--chunk-keep-rounds` is `1`"),
        (["--min-updates", "3", "--min-clients", "2"], "min_updates"),
        (["--round", "3"], "unknown argument `--round`: did you mean `--rounds`"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_was_said(arguments, told):
    with pytest.raises(UsageError) as caught:
        parse(*arguments)

    assert told in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_an_unknown_key_of_the_file_is_refused_with_the_nearest(tmp_path):
    file = tmp_path / "fl.toml"
    file.write_text("round = 3\n")

    with pytest.raises(UsageError, match="unknown key `round`: did you mean `rounds`"):
        read_config({}, {}, file)


def test_data_in_a_folder_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert parse("--data", "leaf").data == str(tmp_path / "leaf")
    assert parse("--data", "digits").data == "digits"


def test_more_rounds_do_not_make_another_run():
    names = defining(FederatedConfig()).keys()

    assert {"data", "clients", "alpha", "seed", "lr", "momentum"} <= names
    assert not {"rounds", "round_limit_s", "policy", "chunk_num"} & names


def test_half_of_the_clients_are_enough_unless_said_otherwise():
    assert round_rules(FederatedConfig(clients=3)).min_clients == 2
    assert round_rules(FederatedConfig(clients=1)).min_clients == 1
    assert round_rules(FederatedConfig(clients=4, min_clients=4)).min_clients == 4
    assert round_rules(FederatedConfig(patience_s=0)).patience_ns is None


def test_every_setting_is_described():
    assert all(setting.description for setting in settings(FederatedConfig))
    assert client_keys(FederatedConfig(clients=2)) == ["client-1", "client-2"]


def test_a_misspelt_variable_is_refused_with_the_right_one():
    with pytest.raises(UsageError, match="did you mean `OPSDASH_ROUND_LIMIT_S`"):
        read_config({}, {"OPSDASH_ROUND_LIMIT": "3"}, None)


def test_a_default_that_overrules_a_variable_is_kept_for_the_next_start(monkeypatch):
    monkeypatch.setenv("OPSDASH_ROUNDS", "9")

    assert as_flags(FederatedConfig(rounds=5)) == ["--rounds", "5"]
