"""The official archives in miniature: download, checksum, loader, features, one training step."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import wave
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks_mlperf_tiny.data import machines, people, speech_commands
from benchmarks_mlperf_tiny.data.archives import decode_wav
from benchmarks_mlperf_tiny.data.cache import RemoteFile
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.speech_commands import CLASSES
from benchmarks_mlperf_tiny.data.splits import TaskData
from benchmarks_mlperf_tiny.errors import DataError
from benchmarks_mlperf_tiny.tasks import get_task
from benchmarks_mlperf_tiny.training import Engine

RNG = np.random.default_rng(0)


def wav(samples: int, rate: int = 16000) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(RNG.integers(-9000, 9000, samples).astype("<i2").tobytes())
    return content.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def recordings() -> dict[str, bytes]:
    """Four recordings of each word by two speakers: one each in the lists for val and test."""
    words = [word.lower() for word in CLASSES[:10]] + ["bed", "marvin"]
    files = {f"./{word}/{place}_nohash_0.wav": wav(16000 - 500 * place) for word in words for place in range(4)}
    for split, place in (("validation", 2), ("testing", 3)):
        files[f"./{split}_list.txt"] = "\n".join(f"{word}/{place}_nohash_0.wav" for word in words).encode()
    return files | {f"./_background_noise_/{name}.wav": wav(40000) for name in ("pink", "tap")} | {"./README.md": b"x"}


def pictures() -> dict[str, bytes]:
    files = {}
    for folder in ("person", "non_person"):
        for place in range(10):
            content = io.BytesIO()
            Image.fromarray(RNG.integers(0, 255, (96, 96, 3), np.uint8)).save(content, "JPEG")
            files[f"vww_coco2014_96/{folder}/COCO_train2014_{place:012d}.jpg"] = content.getvalue()
    return files


def serve(monkeypatch: pytest.MonkeyPatch, module: ModuleType, constant: str, path: Path, known: bool = True) -> None:
    """Let a constant of a loader point to a local archive, with its checksum or without."""
    sha = hashlib.sha256(path.read_bytes()).hexdigest() if known else None
    monkeypatch.setattr(module, constant, RemoteFile(path.as_uri(), getattr(module, constant).name, sha))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NASOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loss_of_one_epoch(task_name: str, data: TaskData, batch: int) -> float:
    """Train the seed on a few examples, and judge it."""
    task = get_task(task_name)
    few = dataclasses.replace(data, train=dataclasses.replace(data.train, x=data.train.x[:8], y=data.train.y[:8]))
    torch.manual_seed(0)
    network = task.seed(data.num_classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    engine = Engine(task, few, "cpu", False, batch)
    loss = engine.train_epoch(engine.plain_step(network.train(), optimizer), 0)
    assert 0 <= engine.judge(network, data.test) <= 1
    return loss


def test_speech_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    monkeypatch.setattr(speech_commands, "UNKNOWN_SHARE", 1.0)
    test_names = [*(word.lower() for word in CLASSES[:10]), "_silence_", "_unknown_"]
    test_files = {f"./{name}/{place}.wav": wav(16000) for name in test_names for place in range(2)}
    serve(monkeypatch, speech_commands, "RECORDINGS", tar(tmp_path / "main.tar.gz", recordings()))
    serve(monkeypatch, speech_commands, "TEST_SET", tar(tmp_path / "test.tar.gz", test_files))
    data = get_task("kws").dataset("speech_commands").load(DataOptions())
    # Two of every keyword, as many silences, twice two other words; half of that for val.
    assert torch.bincount(data.train.y).tolist() == [2] * 11 + [4]
    assert torch.bincount(data.val.y).tolist() == [1] * 11 + [2]
    assert torch.bincount(data.test.y).tolist() == [2] * 12
    assert data.train.x.shape[1:] == (16000,)
    assert loss_of_one_epoch("kws", data, 4) > 0
    assert {path.name for path in cache.iterdir()} == {
        ".lock",
        "speech_commands_v0.02.tar.gz",
        "speech_commands_test_set_v0.02.tar.gz",
    }


def test_other_words_are_a_fixed_twentieth() -> None:
    names = [f"bed/{place:08x}_nohash_0.wav" for place in range(5000)]
    kept = [name for name in names if speech_commands.is_kept(name, speech_commands.UNKNOWN_SHARE)]
    assert 230 < len(kept) < 340
    assert kept == [name for name in names if speech_commands.is_kept(name, speech_commands.UNKNOWN_SHARE)]


def test_visual_wake_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, people, "VWW", tar(tmp_path / "vww.tar.gz", pictures()), known=False)
    data = get_task("vww").dataset("visual_wake_words").load(DataOptions())
    assert [torch.bincount(split.y).tolist() for split in (data.train, data.val, data.test)] == [[8, 8], [1, 1], [1, 1]]
    assert data.train.x.dtype == torch.uint8
    assert loss_of_one_epoch("vww", data, 4) > 0


def test_toycar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "car.zip", "w") as archive:
        for machine in (1, 2):
            for place in range(4):
                archive.writestr(f"ToyCar/train/normal_id_0{machine}_{place:08d}.wav", wav(250 * 512))
                archive.writestr(f"ToyCar/test/normal_id_0{machine}_{place:08d}.wav", wav(250 * 512))
                archive.writestr(f"ToyCar/test/anomaly_id_0{machine}_{place:08d}.wav", wav(250 * 512))
    serve(monkeypatch, machines, "TOYCAR", tmp_path / "car.zip", known=False)
    data = get_task("ad").dataset("toycar").load(DataOptions())
    assert data.train.x.shape == (8 * 196, 640)
    assert int(data.train.y.sum()) == 0
    for split, count in ((data.val, 4), (data.test, 12)):
        assert split.group is not None
        assert int(split.group.max()) == count - 1
        assert int(split.y.sum()) == count // 2 * 196, "half of them broken, of each machine"
    assert loss_of_one_epoch("ad", data, 4) > 0


def test_the_first_copy_decides_where_no_checksum_is_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tar(tmp_path / "vww.tar.gz", pictures())
    serve(monkeypatch, people, "VWW", path, known=False)
    load = get_task("vww").dataset("visual_wake_words").load
    load(DataOptions())
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"that of this first copy, {sha}" in capsys.readouterr().err
    assert (cache / "vww_coco2014_96.tar.gz.sha256").read_text() == f"{sha}  vww_coco2014_96.tar.gz\n"
    copy = cache / "vww_coco2014_96.tar.gz"
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"vww_coco2014_96\.tar\.gz does not have the checksum {sha}.*Delete it"):
        load(DataOptions())


def test_the_user_gives_the_checksum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    serve(monkeypatch, people, "VWW", tar(tmp_path / "vww.tar.gz", pictures()), known=False)
    cache.mkdir()
    record = cache / "vww_coco2014_96.tar.gz.sha256"
    load = get_task("vww").dataset("visual_wake_words").load
    record.write_text("0" * 64)
    with pytest.raises(
        DataError, match=rf"expected was {'0' * 64} \(in vww_coco2014_96\.tar\.gz\.sha256\): the download was discarded"
    ):
        load(DataOptions())
    record.write_text("nonsense")
    with pytest.raises(DataError, match=r"sha256 holds no SHA-256 checksum"):
        load(DataOptions())


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_damaged_archives_in_data_dir_are_named(tmp_path: Path, damage: str) -> None:
    whole = tar(tmp_path / "whole.tar.gz", {"unexpected.txt": b"x" * 5000}).read_bytes()
    content = {"cut": whole[: len(whole) // 2], "foreign": whole, "empty": b""}[damage]
    (tmp_path / "vww_coco2014_96.tar.gz").write_bytes(content)
    (tmp_path / "dev_data_ToyCar.zip").write_bytes(content)
    for task, data, name in (("vww", "visual_wake_words", "vww_coco2014_96"), ("ad", "toycar", "dev_data_ToyCar")):
        with pytest.raises(DataError, match=rf"{name}.* is no usable .* archive .*get it again"):
            get_task(task).dataset(data).load(DataOptions(data_dir=tmp_path))


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tar(tmp_path / "vww_coco2014_96.tar.gz", pictures())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in gzip's checksum: every picture still decodes
    path.write_bytes(bytes(content))
    cure = r"delete it and vww_coco2014_96\.tar\.gz\.sha256, and get it again"
    with pytest.raises(DataError, match=f"is no usable Visual Wake Words archive.*{cure}"):
        get_task("vww").dataset("visual_wake_words").load(DataOptions(data_dir=tmp_path))


def test_what_an_archive_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for missing in ("validation", "_background_noise_", "stop"):
        files = {name: content for name, content in recordings().items() if not name.startswith(f"./{missing}")}
        serve(monkeypatch, speech_commands, "RECORDINGS", tar(tmp_path / "speech_commands_v0.02.tar.gz", files))
        with pytest.raises(DataError, match=f"no usable Speech Commands archive .*{missing} missing"):
            get_task("kws").dataset("speech_commands").load(DataOptions(data_dir=tmp_path))


def test_no_copy_and_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no dev_data_ToyCar\.zip: put a copy of https.* there"):
        get_task("ad").dataset("toycar").load(DataOptions(data_dir=tmp_path))
    nowhere = dataclasses.replace(machines.TOYCAR, url="http://127.0.0.1:9/none")
    monkeypatch.setattr(machines, "TOYCAR", nowhere)
    with pytest.raises(DataError, match=r"could not be downloaded.*Without a network"):
        get_task("ad").dataset("toycar").load(DataOptions())


def test_recordings_of_another_rate_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 8000\), expected were \(1, 2, 16000\)"):
        decode_wav(wav(10, rate=8000), 16000)
