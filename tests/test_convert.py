"""Datasets of other layouts: converted whole, or refused with all that is wrong at once."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import grid, written_series
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core.convert import from_decathlon, from_nnunet, from_tables, place, safe_names
from mist_core.dataset import find_cases, read_dataset
from mist_core.errors import DataError
from mist_core.files import write_rows
from mist_core.io import Volume, read_image, read_labels, write_volume

VERSION_2 = {
    "channel_names": {"0": "T1 weighted", "1": "CT"},
    "labels": {"background": 0, "edema": 1, "enhancing core": 2, "whole tumour": [1, 2]},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
VERSION_1 = {
    "name": "Old",
    "modality": {"0": "FLAIR", "1": "MR"},
    "labels": {"0": "background", "1": "edema", "2": "core"},
    "numTraining": 2,
    "training": [
        {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        for case in ("case_01", "case_12_0000")
    ],
    "test": ["./imagesTs/case_7.nii.gz"],
}


def values(seed, dtype=np.float32):
    return np.random.default_rng(seed).integers(0, 3, (4, 5, 6)).astype(dtype)


def write(path, seed, dtype=np.float32):
    write_volume(path, Volume(values(seed, dtype), grid((4, 5, 6), (2, 1, 0.5))))
    return path


def nnunet(folder, fields=VERSION_2, ending=".nii.gz"):
    """Two training cases and one for the test, each with two channels."""
    for seed, case in enumerate(("case_01", "case_12_0000", "case_7")):
        part = "Ts" if case == "case_7" else "Tr"
        for channel in (0, 1):
            write(folder / f"images{part}/{case}_{channel:04d}{ending}", 10 * seed + channel)
        if part == "Tr":
            write(folder / f"labelsTr/{case}{ending}", 10 * seed + 2, np.uint8)
    describe(folder, fields)
    return folder


def decathlon(folder, volumes=2):
    """One training case and one for the test, 4-D, of int16."""
    for part, case in (("Tr", "b_1"), ("Ts", "b_2")):
        channels = [sitk.GetImageFromArray(values(c, np.int16)) for c in range(volumes)]
        (folder / f"images{part}").mkdir(parents=True)
        sitk.WriteImage(sitk.JoinSeries(channels), str(folder / f"images{part}/{case}.nii.gz"))
    (folder / "labelsTr").mkdir()
    label_map = sitk.GetImageFromArray(values(2, np.uint8))
    sitk.WriteImage(label_map, str(folder / "labelsTr/b_1.nii.gz"))
    fields = {
        "name": "Two",
        "modality": {"0": "FLAIR", "1": "CT"},
        "labels": {"0": "background", "1": "left part", "2": "right"},
        "training": [{"image": "./imagesTr/b_1.nii.gz", "label": "./labelsTr/b_1.nii.gz"}],
        "test": ["./imagesTs/b_2.nii.gz"],
    }
    describe(folder, fields)
    return folder


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, list(rows[0]), rows)
    return path


def describe(folder, fields):
    (folder / "dataset.json").write_text(json.dumps(fields))


def description(output):
    return json.loads((output / "dataset.json").read_text())


def convert(read, *arguments, link=False):
    copies, fields = read(*arguments)
    place(copies, fields, arguments[-1], link, threads=2)
    return fields


def refusal(*arguments, **options):
    with pytest.raises(DataError) as caught:
        convert(*arguments, **options)
    return str(caught.value)


def contents(folder):
    """What a tree holds: bytes and dates by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


# --- nnU-Net --------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("fields", [VERSION_1, VERSION_2], ids=["v1", "v2"])
def test_every_case_of_nnunet_is_found_with_the_values_of_its_source(tmp_path, fields, link):
    source, output = nnunet(tmp_path / "Dataset001_Head", fields), tmp_path / "out"
    before = contents(source)
    convert(from_nnunet, source, output, link=link)
    cases = find_cases(read_dataset(output))
    train, test = cases.train, cases.test
    assert (list(train), list(test)) == (["case_01", "case_12_0000"], ["case_7"])
    for seed, case in enumerate([*train.values(), *test.values()]):
        for channel, image in enumerate(case.images):
            assert image.is_symlink() == link
            assert np.array_equal(read_image(image).array, values(10 * seed + channel))
        if case.mask:
            assert np.array_equal(read_labels(case.mask).array, values(10 * seed + 2))
    assert contents(source) == before


def test_the_description_of_version_2_by_hand(tmp_path):
    convert(from_nnunet, nnunet(tmp_path / "Dataset001_Head"), tmp_path / "out")
    assert description(tmp_path / "out") == {
        "task": "Dataset001_Head",
        "modality": {"T1_weighted": "mr", "CT": "ct"},
        "train-data": "raw/train",
        "test-data": "raw/test",
        "mask": ["mask.nii.gz"],
        "images": {"T1_weighted": ["T1_weighted.nii.gz"], "CT": ["CT.nii.gz"]},
        "labels": [0, 1, 2],
        "final_classes": {"edema": [1], "enhancing_core": [2], "whole_tumour": [1, 2]},
    }


def test_the_description_of_version_1_by_hand(tmp_path):
    convert(from_nnunet, nnunet(tmp_path / "in", VERSION_1), tmp_path / "out")
    fields = description(tmp_path / "out")
    assert (fields["task"], fields["modality"], fields["labels"]) == ("Old", "mr", [0, 1, 2])
    assert list(fields["images"]) == ["FLAIR", "MR"]
    assert fields["final_classes"] == {"edema": [1], "core": [2]}


def test_labels_that_only_a_region_names_are_labels(tmp_path):
    fields = VERSION_2 | {"labels": {"background": 0, "whole": [1, 2], "core": [2]}}
    convert(from_nnunet, nnunet(tmp_path / "in", fields), tmp_path / "out")
    assert read_dataset(tmp_path / "out").labels == (0, 1, 2)


def test_cases_may_lie_where_the_mapping_says(tmp_path):
    source = nnunet(tmp_path / "in")
    elsewhere = write(tmp_path / "elsewhere/ct.nrrd", 5)
    entry = {
        "images": ["imagesTr/case_01_0000.nii.gz", str(elsewhere)],
        "label": "../in/labelsTr/case_01.nii.gz",
    }
    listed = {"a": entry, "b.1": entry}
    describe(source, VERSION_2 | {"dataset": listed})
    convert(from_nnunet, source, tmp_path / "out")
    cases = find_cases(read_dataset(tmp_path / "out"))
    train, test = cases.train, cases.test
    assert (list(train), list(test)) == (["a", "b.1"], ["case_7"])
    assert np.array_equal(read_image(train["b.1"].images[1]).array, values(5))

    describe(
        source, VERSION_2 | {"dataset": listed | {"c": {"images": ["x"], "label": "y"}, "d": 3}}
    )
    message = refusal(from_nnunet, source, tmp_path / "new")
    for words in ("'c' in dataset to have images, 2 of them", "'d'", "numTraining), found 4"):
        assert words in message


def test_all_that_is_wrong_with_the_files_of_nnunet_is_said_at_once(tmp_path):
    source = nnunet(tmp_path / "in", VERSION_2 | {"numTraining": 7})
    (source / "imagesTr/case_01_0001.nii.gz").unlink()
    (source / "labelsTr/case_12_0000.nii.gz").unlink()
    write(source / "labelsTr/lonely.nii.gz", 1, np.uint8)
    write(source / "imagesTs/case_7_0002.nii.gz", 1)
    write(source / "imagesTr/unnumbered.nii.gz", 1)
    (source / "imagesTr/._case_9_0000.nii.gz").touch()
    message = refusal(from_nnunet, source, tmp_path / "out")
    assert message.startswith("conversion: 7 problems\n")
    for words in (
        "imagesTr/case_01_0001.nii.gz: expected channel 1 of the case, found none",
        "labelsTr/case_12_0000.nii.gz: expected a label map, found none",
        "imagesTr/lonely_0000.nii.gz: expected channel 0",
        "imagesTr/lonely_0001.nii.gz: expected channel 1",
        "imagesTs/case_7_0002.nii.gz: expected channels up to 0001, found another",
        "imagesTr/unnumbered.nii.gz: expected a name that ends with the number",
        "dataset.json: expected 7 cases (numTraining), found 3",
    ):
        assert words in message
    assert not (tmp_path / "out").exists()


def test_cases_that_only_the_lists_of_version_1_name_are_missed(tmp_path):
    source = nnunet(tmp_path / "in", VERSION_1)
    for path in source.glob("*/case_01*"):
        path.unlink()
    (source / "imagesTs/case_7_0000.nii.gz").unlink()
    message = refusal(from_nnunet, source, tmp_path / "out")
    assert message.startswith("conversion: 4 problems\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channel_names": {"0": "CT", "2": "MR"}}, "mapping from 0, 1, ... to names"),
        ({"channel_names": {}}, "mapping from 0, 1, ... to names"),
        ({"channel_names": 5}, "mapping from 0, 1, ... to names"),
        ({"labels": {"background": 0, "liver": 1, "ignore": [2, 3]}}, "one value for ignore"),
        (
            {"labels": {"background": 0, "a": 1, "all": [0, 1]}},
            "region of labels above 0 for 'all'",
        ),
        ({"labels": {"a": 1, "b": 2}}, "0 is missing"),
        ({"labels": {"background": 0, "a": "x"}}, "found {'a': ['x']}"),
        ({"labels": {"background": 0, "a": [True]}}, "found {'a': [True]}"),
        ({"labels": {"background": 0, "a": -1}}, "whole numbers up to 65535"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "names of their own"),
        ({"labels": {"background": 0, "a b": 1, "a_b": 2}}, "differ in more than spaces"),
        ({"labels": []}, "labels to be a mapping"),
        ({"file_ending": ".png"}, "file_ending to be one of"),
        ({"dataset": []}, "'all' in dataset"),
    ],
)
def test_what_nnunet_descriptions_may_not_say(tmp_path, change, words):
    assert words in refusal(
        from_nnunet, nnunet(tmp_path / "in", VERSION_2 | change), tmp_path / "o"
    )


def test_an_optional_channel_of_nnunet_may_be_missing(tmp_path):
    source, output = nnunet(tmp_path / "in"), tmp_path / "out"
    (source / "imagesTr/case_01_0000.nii.gz").unlink()
    assert "case_01_0000.nii.gz: expected channel 0 of the case" in refusal(
        from_nnunet, source, output
    )
    describe(source, VERSION_2 | {"optional_images": ["T1 weighted"]})
    convert(from_nnunet, source, output)
    assert description(output)["optional_images"] == ["T1_weighted"]
    train = find_cases(read_dataset(output)).train
    ct = output / "raw/train/case_01/CT.nii.gz"
    assert train["case_01"].images == (None, ct)
    assert np.array_equal(read_image(ct).array, values(1))
    assert None not in train["case_12_0000"].images


def test_an_optional_channel_of_nnunet_is_one_that_some_case_has(tmp_path):
    source = nnunet(tmp_path / "in", VERSION_2 | {"optional_images": ["CT"]})
    for path in source.rglob("*_0001.nii.gz"):
        path.unlink()
    words = refusal(from_nnunet, source, tmp_path / "out")
    assert "expected a file of channel CT in some case, found none" in words
    describe(source, VERSION_2 | {"optional_images": ["T1"]})
    words = refusal(from_nnunet, source, tmp_path / "out")
    assert "expected optional_images to be some of T1 weighted, CT" in words
    assert "expected channel 1 of the case" in words  # all at once


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["", "a", "0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "a", "image", "images", "label"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(data=st.data(), version=st.sampled_from([VERSION_1, VERSION_2]))
def test_any_wrong_value_is_refused_in_words(tmp_path_factory, data, version):
    source = tmp_path_factory.getbasetemp() / "any"
    if not source.exists():
        nnunet(source)
    others = ("dataset", "training", "test", "optional_images")
    key = data.draw(st.sampled_from([*version, *others]))
    fields = version | {key: data.draw(ANY_JSON)}
    for read in (from_nnunet, from_decathlon):
        describe(source, fields)
        try:
            copies, _ = read(source, source.with_name("nowhere"))
        except DataError:  # anything else is a traceback for the user
            continue
        assert all(copy.source.is_file() for copy in copies)


# --- names of channels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        (["t1-ce", "c.t1", "T1+C"], ["t1-ce", "c.t1", "T1+C"]),
        (["MR", "MR", "mr", "MR_2"], ["MR", "MR_2", "mr_3", "MR_2_2"]),
        (["T1 / post (Gd)", "../x", "größe"], ["T1_post_Gd", "x", "größe"]),
        (["mask", "", "/"], ["mask_2", "channel", "channel_2"]),
    ],
)
def test_names_of_channels_become_names_of_files(channels, names):
    assert safe_names(channels) == names


def test_odd_names_of_channels_agree_between_files_and_description(tmp_path):
    fields = VERSION_2 | {"channel_names": {"0": "MR/a b", "1": "MR/a b"}}
    convert(from_nnunet, nnunet(tmp_path / "in", fields), tmp_path / "out")
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.channels, dataset.modality) == (("MR_a_b", "MR_a_b_2"), "mr")
    case = dataset.case("case_01")
    assert [np.array_equal(read_image(p).array, values(c)) for c, p in enumerate(case.images)] == [
        True,
        True,
    ]


# --- the Decathlon --------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
def test_a_4d_image_becomes_a_file_for_each_channel(tmp_path, caplog, link):
    caplog.set_level("INFO")
    source = decathlon(tmp_path / "in")
    convert(from_decathlon, source, tmp_path / "out", link=link)
    dataset = read_dataset(tmp_path / "out")
    assert dataset.modality == {"FLAIR": "mr", "CT": "ct"}
    cases = find_cases(dataset)
    train, test = cases.train, cases.test
    for case in (train["b_1"], test["b_2"]):
        for channel, path in enumerate(case.images):
            assert not path.is_symlink()
            image = sitk.ReadImage(str(path))
            assert image.GetPixelID() == sitk.sitkInt16
            assert np.array_equal(sitk.GetArrayFromImage(image), values(channel))
    assert train["b_1"].mask.is_symlink() == link
    assert np.array_equal(read_labels(train["b_1"].mask).array, values(2))
    words = "2 4-D images are split into a file for each channel" + (", not linked" * link)
    assert words in caplog.messages


def test_more_than_ten_channels_keep_their_order(tmp_path):
    source = decathlon(tmp_path / "in", volumes=11)
    fields = description(source) | {"modality": {str(n): f"c{n}" for n in range(11)}}
    describe(source, fields)
    convert(from_decathlon, source, tmp_path / "out")
    case = read_dataset(tmp_path / "out").case("b_1")
    assert [path.name for path in case.images] == [f"c{n}.nii.gz" for n in range(11)]
    assert np.array_equal(read_image(case.images[10]).array, values(10))


def test_all_images_with_a_wrong_number_of_volumes_are_named(tmp_path):
    source = decathlon(tmp_path / "in", volumes=3)
    message = refusal(from_decathlon, source, tmp_path / "out")
    assert message.startswith("conversion: 2 problems")
    assert (
        "b_2.nii.gz: expected 2 volumes, one for each channel in dataset.json, found 3" in message
    )
    assert not (tmp_path / "out/dataset.json").exists()


def test_all_that_is_wrong_with_a_decathlon_is_said_at_once(tmp_path):
    source = decathlon(tmp_path / "in")
    (source / "labelsTr/b_1.nii.gz").unlink()
    fields = description(source)
    fields["training"] += [
        {"image": "more/b_1.nii.gz", "label": "more/m.nii.gz"},
        {"image": "imagesTs/b_2.nii.gz", "label": "imagesTs/b_2.nii.gz"},
        {"image": "imagesTr/-x.nii.gz", "label": "imagesTs/b_2.nii.gz"},
    ]
    describe(source, fields | {"labels": {"0": "background", "1": "a b", "2": "a_b"}})
    message = refusal(from_decathlon, source, tmp_path / "out")
    for words in (
        "labelsTr/b_1.nii.gz: expected a file, found none",
        "more/m.nii.gz: expected a case and channel of its own",
        "imagesTr/-x.nii.gz: expected a file, found none",
        "found '-x'. Rename the case",
        "expected different ids for training and test, found 'b_2' in both",
        "differ in more than spaces",
    ):
        assert words in message


@pytest.mark.parametrize(
    "change", [{"modality": {}}, {"labels": {}}, {"labels": {"x": "a"}}, {"training": 3}]
)
def test_what_decathlon_descriptions_may_not_say(tmp_path, change):
    source = decathlon(tmp_path / "in")
    describe(source, description(source) | change)
    assert "dataset.json: expected modality" in refusal(from_decathlon, source, tmp_path / "out")


# --- tables ---------------------------------------------------------------------------------------


def test_tables_keep_formats_and_odd_names_of_columns(tmp_path):
    home = tmp_path / "in"
    write(home / "m.nii.gz", 0, np.uint8)
    write(home / "a/x.nrrd", 1)
    write(home / "x.mha", 2)
    rows = [
        {"id": "001", "mask": "m.nii.gz", "t1-ce": "a/x.nrrd", "2": str(home / "x.mha")},
        {"id": "01", "mask": "m.nii.gz", "t1-ce": "x.mha", "2": "x.mha"},
    ]
    test = [{"id": "t", "2": "x.mha", "t1-ce": "../in/x.mha"}]
    output = tmp_path / "out"
    convert(from_tables, table(home / "a.csv", rows), table(home / "b.csv", test), output)
    fields = description(output)
    assert fields["images"] == {"t1-ce": ["t1-ce.mha", "t1-ce.nrrd"], "2": ["2.mha"]}
    assert {fields[key] for key in ("task", "modality", "labels", "final_classes")} == {None}

    filled = {"task": "t", "modality": "mr", "labels": [0, 1, 2], "final_classes": {"a": [1, 2]}}
    filled |= {"optional_images": ["2"], "mirrored_labels": [[1, 2]]}
    describe(output, fields | filled)
    cases = find_cases(read_dataset(output))
    train, found = cases.train, cases.test
    assert (list(train), list(found)) == (["001", "01"], ["t"])
    assert np.array_equal(read_image(train["001"].images[0]).array, values(1))
    # converted again, what was filled in is kept
    convert(from_tables, home / "a.csv", home / "b.csv", output)
    assert description(output) == fields | filled


def test_cells_of_optional_columns_may_be_empty(tmp_path):
    for number, name in enumerate(("m", "a", "b")):
        write(tmp_path / f"{name}.nii.gz", number, np.uint8)
    rows = [
        {"id": "1", "mask": "m.nii.gz", "t1": "a.nii.gz", "t1 c": "b.nii.gz"},
        {"id": "2", "mask": "m.nii.gz", "t1": "a.nii.gz", "t1 c": ""},
    ]
    train, output = table(tmp_path / "a.csv", rows), tmp_path / "out"
    test = table(tmp_path / "b.csv", [{"id": "3", "t1": "a.nii.gz", "t1 c": ""}])
    assert "expected a file for each of t1, t1 c, mask of '2'" in refusal(
        from_tables, train, test, output
    )
    copies, fields = from_tables(train, test, output, ["t1 c"])
    assert fields["optional_images"] == ["t1_c"]
    filled = {"task": "t", "modality": "mr", "labels": [0, 1, 2], "final_classes": {"a": [1]}}
    place(copies, fields | filled, output, False, 1)
    found = find_cases(read_dataset(output))
    missing = [image is None for case in found.train.values() for image in case.images]
    assert missing == [False, False, False, True]
    assert found.test["3"].images[1] is None
    with pytest.raises(DataError, match="expected optional_images to be some of t1, t1 c"):
        from_tables(train, test, output, ["t2"])
    empty = table(tmp_path / "c.csv", [rows[1]])
    with pytest.raises(DataError, match="expected a file of channel t1_c in some case"):
        from_tables(empty, None, tmp_path / "new", ["t1 c"])


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    write(tmp_path / "m.nii.gz", 0)
    (tmp_path / "empty").mkdir()
    text = """id,mask,t1
a,m.nii.gz,none.nii.gz
a,m.nii.gz,m.nii.gz
b,m.nii.gz,
c,m.nii.gz
d,m.nii.gz,m.nii.gz,m.nii.gz
../../e,m.nii.gz,m.nii.gz
/f,m.nii.gz,m.nii.gz
.f,m.nii.gz,m.nii.gz
Mean,m.nii.gz,m.nii.gz
g,m.nii.gz,empty
"""
    (tmp_path / "t.csv").write_text(text)
    message = refusal(from_tables, tmp_path / "t.csv", None, tmp_path / "out")
    assert message.startswith("conversion: 10 problems\n")
    for words in (
        "none.nii.gz: expected a file, found none",
        "expected every id once, found 'a'",
        "mask of 'b', found ['m.nii.gz', '']",
        "mask of 'c', found ['m.nii.gz', None]",
        "mask of 'd'",
        "found '../../e'. Rename the case",
        "found '/f'. Rename the case",
        "found '.f'. Rename the case",
        "found 'Mean'. Rename the case",
        "empty: expected a file, found none",
    ):
        assert words in message


@pytest.mark.parametrize("header", ["id,t1", "id,mask", "mask,t1", "id,mask,t1,", "a;b"])
def test_columns_that_do_not_do_are_named(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"{header}\n{header}\n")
    message = refusal(from_tables, tmp_path / "t.csv", None, tmp_path / "out")
    assert "t.csv: expected columns id, mask and images" in message


def test_both_tables_have_the_same_images(tmp_path):
    write(tmp_path / "m.nii.gz", 0)
    table(tmp_path / "a.csv", [{"id": "a", "mask": "m.nii.gz", "t1": "m.nii.gz"}])
    table(tmp_path / "b.csv", [{"id": "b", "T1": "m.nii.gz"}])
    message = refusal(from_tables, tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "out")
    assert "b.csv: expected the images of" in message


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("ending", [".nhdr", ".mhd", ".hdr", ".img"])
def test_a_header_does_not_lose_the_file_of_its_voxels(tmp_path, ending, link):
    source = tmp_path / "in" / f"x{ending}"
    source.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(values(1)), str(source))
    assert len(list(source.parent.iterdir())) == 2
    rows = [{"id": "a", "mask": source.name, "t1": source.name}]
    path = table(tmp_path / "in/t.csv", rows)
    fields = convert(from_tables, path, None, tmp_path / "out", link=link)
    folder = tmp_path / "out/raw/train/a"
    assert len(list(folder.iterdir())) == 2
    assert np.array_equal(read_image(folder / fields["images"]["t1"][0]).array, values(1))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("link", [False, True])
def test_a_dicom_series_is_brought_as_a_folder(tmp_path, link, again):
    scan = values(1, np.int16)
    series = written_series(tmp_path / "1.2.840", scan)
    before = contents(series)
    write(tmp_path / "m.nii.gz", 0)
    path = table(tmp_path / "t.csv", [{"id": "a", "mask": "m.nii.gz", "c.t": "1.2.840"}])
    fields = convert(from_tables, path, None, tmp_path / "out", link=link)
    assert fields["images"] == {"c.t": ["c.t"]}
    # once more, in the same way or the other
    convert(from_tables, path, None, tmp_path / "out", link=link != again)
    target = tmp_path / "out/raw/train/a/c.t"
    assert target.is_symlink() == (link != again)
    assert np.array_equal(read_image(target).array, scan)
    assert contents(series) == before


# --- a folder that holds a conversion already -----------------------------------------------------


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_converting_again_changes_nothing_and_never_the_source(tmp_path, first, second):
    source, output = nnunet(tmp_path / "in"), tmp_path / "out"
    before = contents(source)
    convert(from_nnunet, source, output, link=first)
    once = contents(output)
    convert(from_nnunet, source, output, link=second)
    assert contents(source) == before
    twice = contents(output)
    description_of = once.pop(output / "dataset.json")[0]
    assert twice.pop(output / "dataset.json")[0] == description_of
    assert twice == once
    assert {path.is_symlink() for path in twice} == {second}


def test_what_replaces_a_link_is_not_written_into_the_source(tmp_path):
    """The same targets from other sources, split, joined and copied, where links were."""
    source, output = decathlon(tmp_path / "in"), tmp_path / "out"
    convert(from_decathlon, source, output)
    precious = write(tmp_path / "precious.nii.gz", 77)
    before = contents(tmp_path / "precious.nii.gz"), precious.read_bytes()
    for path in (output / "raw").rglob("*.nii.gz"):
        path.unlink()
        path.symlink_to(precious)
    convert(from_decathlon, source, output)
    assert precious.read_bytes() == before[1]
    assert not any(path.is_symlink() for path in (output / "raw").rglob("*"))


def test_links_work_from_anywhere(tmp_path, monkeypatch):
    nnunet(tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    relative = os.path.relpath(tmp_path / "in")
    copies, fields = from_nnunet(type(tmp_path)(relative), tmp_path / "out")
    place(copies, fields, tmp_path / "out", link=True, threads=1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").rename(tmp_path / "moved")
    target = tmp_path / "moved/raw/train/case_01/CT.nii.gz"
    assert target.readlink() == tmp_path / "in/imagesTr/case_01_0001.nii.gz"
    assert np.array_equal(read_image(target).array, values(1))


def test_two_datasets_are_not_mixed(tmp_path):
    output = tmp_path / "out"
    convert(from_decathlon, decathlon(tmp_path / "in"), output)
    message = refusal(from_nnunet, nnunet(tmp_path / "other"), output)
    assert message == (
        f"conversion: 1 problem\n  {output / 'raw'}: expected nothing but what this conversion "
        "writes, found 2 of another (test/b_2, train/b_1). Choose an empty folder or delete it."
    )


def test_old_files_of_the_same_cases_are_refused_too(tmp_path):
    source, output = nnunet(tmp_path / "in"), tmp_path / "out"
    convert(from_nnunet, source, output)
    describe(source, VERSION_2 | {"channel_names": {"0": "T1 weighted", "1": "PET"}})
    message = refusal(from_nnunet, source, output)
    assert "found 3 of another (test/case_7/CT.nii.gz, " in message
    (output / "raw/train/case_01/.hidden").touch()
    describe(source, VERSION_2)
    convert(from_nnunet, source, output)


def test_folders_that_are_links_are_refused(tmp_path):
    source, output = nnunet(tmp_path / "in"), tmp_path / "out"
    (tmp_path / "mine").mkdir()
    (output / "raw/train").mkdir(parents=True)
    (output / "raw/train/case_01").symlink_to(tmp_path / "mine")
    (output / "raw/test").write_text("")
    message = refusal(from_nnunet, source, output)
    assert "raw/train/case_01: expected a folder, found a link" in message
    assert "raw/test: expected a folder, found a file" in message
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("read", [from_nnunet, from_decathlon])
def test_the_output_is_not_the_source(tmp_path, read):
    source = (nnunet if read is from_nnunet else decathlon)(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    before = contents(source)
    message = refusal(read, source, tmp_path / "link")
    assert "link/dataset.json: expected none, or that of an earlier conversion" in message
    assert contents(source) == before


def test_files_of_the_output_are_no_sources(tmp_path):
    path = write(tmp_path / "out/raw/train/a/t1.nii.gz", 0)
    write(tmp_path / "m.nii.gz", 0)
    rows = [{"id": "a", "mask": "m.nii.gz", "t1": "out/raw/train/a/t1.nii.gz"}]
    csv = table(tmp_path / "t.csv", rows)
    assert f"{path}: expected a source outside" in refusal(from_tables, csv, None, tmp_path / "out")
    series = written_series(tmp_path / "series", values(1, np.int16))
    table(csv, [{"id": "a", "mask": "m.nii.gz", "t1": "series"}])
    assert "expected a source outside" in refusal(from_tables, csv, None, series / "out")


# --- the commands ---------------------------------------------------------------------------------


def test_the_command_links_and_fails_loudly(tmp_path):
    def run(*words):
        code = "from mist_core.commands import convert_nnunet; convert_nnunet()"
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    source, output = nnunet(tmp_path / "in"), tmp_path / "out"
    words = ["--source", source, "--output", output, "--link", "--num-workers-conversion", 2]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert (output / "raw/train/case_01/CT.nii.gz").is_symlink()
    (source / "labelsTr/case_01.nii.gz").unlink()
    done = run(*words)
    assert done.returncode == 1
    assert "ERROR: conversion: 1 problem" in done.stderr
    assert "Traceback" not in done.stderr
