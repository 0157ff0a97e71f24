"""The dataset description: which file is which, and every mistake said before the first job."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core.dataset import (
    Case,
    find_cases,
    missing_channels,
    modality_of,
    problems_of_number,
    read_dataset,
    two_sided,
)
from mist_core.demo import DESCRIPTION, demo_cases
from mist_core.errors import DataError

FIELDS = {
    "task": "demo",
    "modality": "MR",
    "train-data": "train",
    "mask": ["seg"],
    "images": {"t2": ["t2"], "t1": ["t1"]},
    "labels": [0, 1, 2],
}
FILES = ("t1.nii.gz", "t2.nii.gz", "seg.nii.gz")


def make(folder, cases=("a", "b", "c", "d", "e"), files=FILES, part="train", **changes):
    """A described folder of empty files; a change to None leaves the key out."""
    for case in cases:
        for name in files:
            path = folder / part / case / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    fields = {k: v for k, v in (FIELDS | changes).items() if v is not None}
    path = folder / "dataset.json"
    path.write_text(json.dumps(fields))
    return path


def refusal(read, *arguments):
    with pytest.raises(DataError) as caught:
        read(*arguments)
    return str(caught.value)


# --- folders of patients --------------------------------------------------------------------------


def test_a_description_by_hand(tmp_path):
    dataset = read_dataset(make(tmp_path, labels=[4, 0, 2], final_classes={"all": [2, 4]}))
    assert dataset.modality == "mr"
    assert dataset.channels == ("t2", "t1")  # the order of the JSON is the order of the channels
    assert dataset.labels == (0, 2, 4)  # background first, the gap kept
    assert dataset.final_classes == {"all": (2, 4)}
    home = tmp_path / "train/a"
    assert dataset.case("a") == Case(
        "a", (home / "t2.nii.gz", home / "t1.nii.gz"), home / "seg.nii.gz"
    )


def test_a_folder_stands_for_the_json_in_it(tmp_path):
    make(tmp_path)
    assert read_dataset(tmp_path).path == tmp_path / "dataset.json"


def test_each_label_is_a_class_when_none_are_named(tmp_path):
    dataset = read_dataset(make(tmp_path, labels=[0, 1, 4]))
    assert dataset.final_classes == {"label_1": (1,), "label_4": (4,)}


def test_file_names_are_matched_and_not_folder_names(tmp_path):
    folder = tmp_path / "segmentation" / "t1_and_t2"
    dataset = read_dataset(make(folder, cases=["seg_t1"]))
    case = dataset.case("seg_t1")
    assert [p.name for p in (*case.images, case.mask)] == ["t2.nii.gz", "t1.nii.gz", "seg.nii.gz"]


def test_two_files_that_match_are_an_error_that_names_both(tmp_path):
    dataset = read_dataset(make(tmp_path, files=(*FILES, "t1ce.nii.gz")))
    message = refusal(dataset.case, "a")
    assert str(tmp_path / "train/a") in message
    assert "found t1.nii.gz, t1ce.nii.gz" in message
    assert "channel t1" in message


def test_a_longer_substring_tells_them_apart(tmp_path):
    files = (*FILES, "t1ce.nii.gz")
    images = {"t2": ["t2."], "t1": ["t1."], "t1ce": ["t1ce", "t1gd"]}
    case = read_dataset(make(tmp_path, files=files, images=images)).case("a")
    assert [p.name for p in case.images] == ["t2.nii.gz", "t1.nii.gz", "t1ce.nii.gz"]


def test_all_missing_files_of_a_case_are_named(tmp_path):
    lines = refusal(read_dataset(make(tmp_path, files=["t1.nii.gz"])).case, "a").splitlines()
    assert len(lines) == 2
    assert "'t2' in its name for channel t2, found none" in lines[0]
    assert "'seg' in its name for the mask, found none" in lines[1]


def test_a_file_is_never_both_an_image_and_the_mask(tmp_path):
    # t1.nii.gz was forgotten: what is left that has t1 in its name is the label map
    dataset = read_dataset(make(tmp_path, files=["t2.nii.gz", "t1_seg.nii.gz"]))
    assert "t1_seg.nii.gz" in refusal(dataset.case, "a")


def test_stray_and_hidden_entries_are_no_patients(tmp_path):
    path = make(tmp_path, cases=["b", "a", ".git"], files=(*FILES, ".t1.nii.gz.swp"))
    (tmp_path / "train/README.txt").touch()
    dataset = read_dataset(path)
    assert dataset.train_ids() == ["a", "b"]
    assert dataset.case("a").images[1].name == "t1.nii.gz"


def test_ids_with_leading_zeros_stay_different(tmp_path):
    ids = ["001", "01", "1", "1.0", "1e3"]
    dataset = read_dataset(make(tmp_path, cases=ids))
    assert dataset.train_ids() == sorted(ids)
    train = find_cases(dataset).train
    assert len({case.mask for case in train.values()}) == 5


def test_test_cases_have_images_and_no_mask(tmp_path):
    make(tmp_path, cases=["x", "y"], files=FILES[:2], part="test")
    dataset = read_dataset(make(tmp_path, **{"test-data": "test"}))
    found = find_cases(dataset)
    assert list(found.train) == ["a", "b", "c", "d", "e"]
    assert list(found.test) == ["x", "y"]
    assert found.test["x"].mask is None
    assert len(found.test["x"].files) == 2
    assert found.number() == 7


def test_an_unknown_case_is_named(tmp_path):
    assert "expected a case 'z', found none" in refusal(read_dataset(make(tmp_path)).case, "z")


def test_a_case_may_lack_an_optional_channel(tmp_path):
    make(tmp_path, cases=["a"])
    make(tmp_path, cases=["b"], files=("t2.nii.gz", "seg.nii.gz"))
    make(tmp_path, cases=["x"], files=("t2.nii.gz",), part="test")
    dataset = read_dataset(make(tmp_path, [], optional_images=["t1"], **{"test-data": "test"}))
    assert dataset.optional_images == ("t1",) == dataset.facts()["optional_images"]
    found = find_cases(dataset)
    assert (list(found.train), list(found.test), found.problems) == (["a", "b"], ["x"], {})
    home = tmp_path / "train"
    assert found.train["a"].images == (home / "a/t2.nii.gz", home / "a/t1.nii.gz")
    b = found.train["b"]
    assert b == Case("b", (home / "b/t2.nii.gz", None), home / "b/seg.nii.gz", optional=(1,))
    assert b.places == (home / "b/t2.nii.gz", None, home / "b/seg.nii.gz")
    assert b.files == (home / "b/t2.nii.gz", home / "b/seg.nii.gz")
    assert found.test["x"].images == (tmp_path / "test/x/t2.nii.gz", None)
    assert missing_channels(dataset.channels, b.images) == ["t1"]
    assert missing_channels(dataset.channels, found.train["a"].images) == []


def test_a_required_channel_must_be_there_and_an_optional_one_must_be_clear(tmp_path):
    make(tmp_path, cases=["a"], files=("t1.nii.gz", "seg.nii.gz"))
    make(tmp_path, cases=["b"], files=(*FILES, "t1ce.nii.gz"))
    make(tmp_path, cases=["c"], files=("t2.nii.gz", "t1_seg.nii.gz"))
    found = find_cases(read_dataset(make(tmp_path, [], optional_images=["t1"])))
    assert "for channel t2, found none" in found.problems["a"][0]
    assert "for channel t1, found t1.nii.gz, t1ce.nii.gz" in found.problems["b"][0]
    assert "t1_seg.nii.gz: expected a file of its own" in found.problems["c"][0]


@pytest.mark.parametrize("optional", [["t1.nii.gz"], []])
def test_the_whole_name_of_another_channel_is_no_part_of_a_name(tmp_path, optional):
    """Without t1.nii.gz, ct1.nii.gz has that in its name and is another channel all the same."""
    images = {"t1.nii.gz": ["t1.nii.gz"], "ct1": ["ct1.nii.gz"]}
    files = ("ct1.nii.gz", "seg.nii.gz")
    dataset = read_dataset(make(tmp_path, ["a"], files, images=images, optional_images=optional))
    if optional:
        assert dataset.case("a").images == (None, tmp_path / "train/a/ct1.nii.gz")
    else:
        assert "for channel t1.nii.gz, found none" in refusal(dataset.case, "a")


# --- mistakes in the description ------------------------------------------------------------------


@pytest.mark.parametrize("key", ["task", "modality", "train-data", "mask", "images", "labels"])
@pytest.mark.parametrize("value", [None, 7, ""])
def test_every_key_must_be_there_and_make_sense(tmp_path, key, value):
    message = refusal(read_dataset, make(tmp_path, **{key: value}))
    assert f"dataset.json: expected {key} to be" in message
    assert ("found nothing" if value is None else f"found {value!r}") in message


@pytest.mark.parametrize(
    "labels",
    [[1, 2], [0, 1, 1], [0, -1], [0, 65536], [0, True], [0, 1.0], [0, "1"], [0, None], [[0]], [0]],
)
def test_labels_are_different_whole_numbers_with_0_and_another(tmp_path, labels):
    assert "expected labels to be" in refusal(read_dataset, make(tmp_path, labels=labels))


@pytest.mark.parametrize("members", [[], [3], [0, 1], 1, ["1"], [[1]], [1, 3], None])
def test_classes_are_made_of_declared_labels(tmp_path, members):
    path = make(tmp_path, final_classes={"good": [1], "bad": members})
    message = refusal(read_dataset, path)
    assert "1 problem" in message
    assert "expected final_classes.bad to be a list of labels among [1, 2]" in message


def test_labels_that_are_left_and_right_of_each_other(tmp_path):
    pairs = [[1, 2], [7, 4]]
    dataset = read_dataset(make(tmp_path, labels=[0, 1, 2, 4, 5, 7], mirrored_labels=pairs))
    assert dataset.mirrored_labels == ((1, 2), (7, 4)) == dataset.facts()["mirrored_labels"]
    assert read_dataset(make(tmp_path)).mirrored_labels == ()


@pytest.mark.parametrize(
    "pairs",
    [
        *(1, "12", {"1": 2}, [1, 2], [[1]], [[1, 2, 4]], [[1, "2"]], [[1, [2]]], [[1, True]]),
        *([[1, 1]], [[0, 1]], [[1, 3]], [[1, 2], [2, 4]]),
    ],
)
def test_pairs_that_are_none_are_named(tmp_path, pairs):
    message = refusal(read_dataset, make(tmp_path, labels=[0, 1, 2, 4], mirrored_labels=pairs))
    assert "1 problem" in message
    assert "expected mirrored_labels to be pairs of labels among [1, 2, 4]" in message
    assert f"found {pairs!r}" in message


@pytest.mark.parametrize(
    "names", ["t1", {"t1": 1}, [1], [["t1"]], [None], ["t3"], ["t1", "t1"], ["t1", "t2"], 0]
)
def test_optional_channels_are_some_of_all(tmp_path, names):
    message = refusal(read_dataset, make(tmp_path, optional_images=names))
    assert "1 problem" in message
    assert "expected optional_images to be some of t2, t1, each once and one less" in message
    assert f"found {names!r}" in message


def test_the_only_channel_of_a_list_is_not_optional(tmp_path):
    path = decathlon(tmp_path, modality={"0": "CT"}, optional_images=["CT"])
    assert "expected optional_images to be some of CT" in refusal(read_dataset, path)


def test_names_that_differ_in_their_side_only():
    names = ["kidney_left", "right hippocampus", "Left hippocampus", "kidney_right", "left_atrium"]
    others = ["brightness_left", "L_eye", "R_eye", "cleft_x", "cright_x"]
    classes = {name: (n,) for n, name in enumerate([*names, *others], 1)}
    assert two_sided(classes) == [
        ("kidney_left", "kidney_right"),
        ("Left hippocampus", "right hippocampus"),
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("mask", [1]), ("images", {"t1": [1]}), ("images", {"t1": "t1"})]
)
def test_substrings_are_lists_of_text(tmp_path, key, value):
    assert f"expected {key}" in refusal(read_dataset, make(tmp_path, **{key: value}))


def test_all_mistakes_are_said_at_once(tmp_path):
    path = make(tmp_path, modality="xray", task=None, labels=[1], images={"t1": []}, colour="red")
    (tmp_path / "train").rename(tmp_path / "training")
    message = refusal(read_dataset, path)
    assert message.startswith("dataset: 6 problems\n")
    for words in (
        "'colour'",
        "expected task",
        "'xray'",
        "expected train-data",
        "images.t1",
        "expected labels",
    ):
        assert sum(words in line for line in message.splitlines()[1:]) == 1


def test_a_message_about_an_unknown_key_lists_all_known_ones(tmp_path):
    message = refusal(read_dataset, make(tmp_path, finalclasses={"a": [1]}))
    for key in (*FIELDS, "test-data", "final_classes"):
        assert key in message


def test_a_folder_of_loose_files_is_explained(tmp_path):
    path = make(tmp_path, cases=["."])
    assert "expected one folder per patient" in refusal(read_dataset, path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{"])
def test_a_json_that_is_no_description_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    assert f"{tmp_path / 'dataset.json'}: expected" in refusal(read_dataset, tmp_path)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["", "a", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("01a"), inner),
    max_leaves=5,
)
DECATHLON = {
    "name": "hippo campus",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "2": "left part", "1": "right"},
    "training": [{"image": f"./im/h_{i:02d}.nii.gz", "label": f"./la/h_{i:02d}.nii.gz"}
                 for i in range(5)],
    "test": ["./im/t_1.nii.gz", {"image": "./im/t_2.nii.gz"}],
}  # fmt: skip


@settings(max_examples=200)
@given(data=st.data(), fields=st.sampled_from([FIELDS, DECATHLON]))
def test_any_wrong_value_is_refused_in_words(tmp_path_factory, data, fields):
    folder = tmp_path_factory.getbasetemp() / "any"
    path = make(folder)
    key = data.draw(st.sampled_from([*fields, "final_classes", "test-data"]))
    path.write_text(json.dumps(fields | {key: data.draw(ANY_JSON)}))
    try:
        labels = read_dataset(path).labels
    except DataError:  # anything else is a traceback for the user
        return
    assert labels[0] == 0


# --- the Decathlon's layout -----------------------------------------------------------------------


def decathlon(folder, **changes):
    for name in (*(f"h_{i:02d}" for i in range(5)), "t_1", "t_2"):
        for part in ("im", "la"):
            (folder / part).mkdir(exist_ok=True)
            (folder / part / f"{name}.nii.gz").touch()
    (folder / "dataset.json").write_text(json.dumps(DECATHLON | changes))
    return folder / "dataset.json"


def test_a_decathlon_description_by_hand(tmp_path):
    dataset = read_dataset(decathlon(tmp_path))
    assert (dataset.task, dataset.modality, dataset.channels) == ("hippo campus", "mr", ("MRI",))
    assert dataset.labels == (0, 1, 2)
    assert dataset.final_classes == {"right": (1,), "left_part": (2,)}
    found = find_cases(dataset)
    assert list(found.train) == [f"h_{i:02d}" for i in range(5)]
    assert list(found.test) == ["t_1", "t_2"]
    assert found.train["h_03"] == Case(
        "h_03", (tmp_path / "im/h_03.nii.gz",), tmp_path / "la/h_03.nii.gz"
    )
    assert found.test["t_2"].mask is None


@pytest.mark.parametrize(
    "modality", ["xray", {"t1": "mr"}, {"t1": "mr", "t2": "beta"}, 3, {"t1": "mr", "t3": "mr"}]
)
def test_odd_modalities_are_refused(tmp_path, modality):
    path = make(tmp_path, modality=modality)
    assert "expected modality to be one of ct, mr, other, or a mapping" in refusal(
        read_dataset, path
    )


MODALITY_OF = {
    "ct": "CT ct",
    "mr": "MRI mr MR t1 T1w t1c T1ce T1Gd t2 T2W t2f FLAIR adc DWI pd PDw T1-weighted_MRI t2*",
    "other": "PET cta petct t10 mrs us noNorm zscore flairs 0 -",
}


@pytest.mark.parametrize(
    ("name", "modality"), [(n, m) for m, names in MODALITY_OF.items() for n in names.split()]
)
def test_the_modality_of_a_channel_follows_from_its_name(tmp_path, name, modality):
    assert modality_of(name) == modality
    assert read_dataset(decathlon(tmp_path, modality={"0": name})).modality == modality


def test_a_word_within_the_name_of_a_channel_counts_for_mr_and_not_for_ct():
    assert modality_of("T1-weighted MRI (post)") == "mr"
    assert modality_of("PET of a PET/CT") == "other"


def test_several_modalities_in_one_file_are_explained(tmp_path):
    message = refusal(read_dataset, decathlon(tmp_path, modality={"0": "T1", "1": "T2"}))
    assert "expected one modality, found 2" in message
    assert f"mist_convert_msd --source {tmp_path} --output" in message


def test_a_description_of_nnunet_names_its_converter(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}}))
    assert f"mist_convert_nnunet --source {tmp_path}" in refusal(read_dataset, tmp_path)


def test_listed_files_that_are_missing_are_all_named(tmp_path):
    dataset = read_dataset(decathlon(tmp_path))
    for name in ("im/h_01.nii.gz", "la/h_01.nii.gz", "im/t_2.nii.gz"):
        (tmp_path / name).unlink()
    found = find_cases(dataset)
    assert list(found.problems) == ["h_01", "t_2"]
    image, mask = found.problems["h_01"]
    assert image.startswith(f"{tmp_path / 'im/h_01.nii.gz'}: expected a file, found none.")
    assert mask.startswith(f"{tmp_path / 'la/h_01.nii.gz'}: ")
    assert not {"h_01", "t_2"} & (found.train.keys() | found.test.keys())


def test_a_file_of_two_cases_is_a_problem(tmp_path):
    entries = [dict(entry) for entry in DECATHLON["training"]]
    entries[3]["label"] = entries[1]["label"]
    found = find_cases(read_dataset(decathlon(tmp_path, training=entries)))
    (problem,) = found.problems["h_03"]
    assert "expected a file of h_03 alone, found that of h_01" in problem
    assert list(found.train) == ["h_00", "h_01", "h_02", "h_04"]


def test_a_file_listed_twice_is_an_error(tmp_path):
    twice = [DECATHLON["training"][0]] * 2
    message = refusal(read_dataset, decathlon(tmp_path, training=twice))
    assert "'h_00' twice" in message


@pytest.mark.parametrize(
    "labels", [{"background": 0, "left": 1}, {"0": "background", "1": 1, "x": "y"}, {"1": "a"}]
)
def test_labels_of_another_layout_are_refused_in_words(tmp_path, labels):
    assert "labels" in refusal(read_dataset, decathlon(tmp_path, labels=labels))


# --- the cases as a whole -------------------------------------------------------------------------


def test_fewer_cases_than_folds_is_one_clear_line(tmp_path):
    dataset = read_dataset(make(tmp_path))
    assert problems_of_number(dataset, 3, 5) == [
        f"{dataset.path}: expected at least 5 training cases for 5 folds, found 3. Add cases or "
        "set analyze.folds to 3."
    ]
    assert problems_of_number(dataset, 5, 5) == []


@pytest.mark.parametrize("n_cases", [0, 1])
def test_one_case_is_never_told_to_make_two_folds(tmp_path, n_cases):
    (message,) = problems_of_number(read_dataset(make(tmp_path)), n_cases, 5)
    assert f"found {n_cases}" in message
    assert "folds to" not in message


def test_a_limit_takes_the_first_by_id_and_all_test_cases(tmp_path):
    make(tmp_path, cases=["x", "y"], part="test")
    dataset = read_dataset(make(tmp_path, **{"test-data": "test"}))
    found = find_cases(dataset, 2)
    assert list(found.train) == ["a", "b"]
    assert list(found.test) == ["x", "y"]


def test_problems_of_all_cases_come_together(tmp_path):
    path = make(tmp_path, cases=["a", "b", "c"])
    (tmp_path / "train/a/t1.nii.gz").unlink()
    (tmp_path / "train/c/t2_again.nii.gz").touch()
    found = find_cases(read_dataset(path))
    assert list(found.train) == ["b"]
    assert [line.split(": ")[0] for lines in found.problems.values() for line in lines] == [
        str(tmp_path / "train/a"),
        str(tmp_path / "train/c"),
    ]


@pytest.mark.parametrize("bad", ["Mean", "25th Percentile", "(dataset)", "a{b}", "a\tb"])
def test_ids_that_would_be_lost_later_are_refused(tmp_path, bad):
    found = find_cases(read_dataset(make(tmp_path, cases=["a", bad])))
    assert f"found {bad!r}. Rename the case" in found.problems[bad][0]
    assert list(found.train) == ["a"]


def test_an_id_in_training_and_test_is_refused(tmp_path):
    make(tmp_path, cases=["c", "x"], part="test")
    found = find_cases(read_dataset(make(tmp_path, **{"test-data": "test"})))
    assert "found 'c' in both" in found.problems["c"][0]
    assert "c" not in found.train.keys() | found.test.keys()


def test_the_demo_is_found_where_it_says_it_will_be(tmp_path):
    expected = demo_cases(tmp_path)
    for case in [*expected.train.values(), *expected.test.values()]:
        for path in case.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "dataset.json").write_text(json.dumps(DESCRIPTION))
    assert find_cases(read_dataset(tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "cases", "labels"), [("brats2015", 4, 5), ("Task04_Hippocampus", 200, 3)]
)
def test_real_descriptions_are_read(shared, name, cases, labels):
    dataset = read_dataset(shared / "data" / name)
    found = find_cases(dataset)
    assert (len(found.train), found.number(), len(dataset.labels)) == (cases, cases, labels)


def test_a_whole_file_name_beats_a_part_of_one(tmp_path):
    for name in ("t1.nii.gz", "ct1.nii.gz", "mask.nii.gz"):
        (tmp_path / "train/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train/a" / name).touch()
    fields = {
        "task": "x",
        "modality": "mr",
        "train-data": "train",
        "mask": ["mask.nii.gz"],
        "images": {"t1": ["t1.nii.gz"], "ct1": ["ct1.nii.gz"]},
        "labels": [0, 1],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(fields))
    case = read_dataset(tmp_path / "dataset.json").case("a")
    assert [path.name for path in case.images] == ["t1.nii.gz", "ct1.nii.gz"]


def test_a_link_to_nothing_is_a_problem_and_not_a_case_that_is_missed(tmp_path):
    path = make(tmp_path, cases=["a", "b"])
    (tmp_path / "train/a/t1.nii.gz").unlink()
    (tmp_path / "train/a/t1.nii.gz").symlink_to(tmp_path / "moved.nii.gz")
    (tmp_path / "train/c").symlink_to(tmp_path / "moved")
    found = find_cases(read_dataset(path))
    assert list(found.train) == ["b"]
    assert list(found.problems) == ["a", "c"]
    for (problem,) in found.problems.values():
        assert "found a link to nothing" in problem


def test_problems_of_test_cases_are_known_as_such(tmp_path):
    make(tmp_path, cases=["x", "both"], files=FILES[:1], part="test")
    path = make(tmp_path, cases=["a", "both"], **{"test-data": "test"})
    (tmp_path / "train/a/t1.nii.gz").unlink()
    found = find_cases(read_dataset(path))
    assert set(found.problems) == {"a", "both", "x"}
    assert found.bad_tests == {"x"}


def test_notes_beside_an_image_are_no_images(tmp_path):
    path = make(tmp_path, cases=["a"])
    for name in ("t1.json", "t1.bval", "seg.txt", "t2.RAW"):
        (tmp_path / "train/a" / name).touch()
    case = read_dataset(path).case("a")
    assert [file.name for file in case.files] == ["t2.nii.gz", "t1.nii.gz", "seg.nii.gz"]
