"""Pipeline files: what is refused, order, variables, matrices."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.core.errors import InputError
from slurm.graph import Pipeline, load_pipeline

HEAD = "name: p\nvars: {output: out, n: 3}\n"


def load(tmp_path: Path, text: str, *overrides: str) -> Pipeline:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    return load_pipeline(str(file), overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: {a: {run: [data], needs: [b]}}", "steps.a.needs: no step 'b'"),
        ("steps: {stage1: {run: [x]}, b: {run: [x], needs: [stag1]}}", "did you mean 'stage1'?"),
        ("steps: {a: {run: [x], needs: [a]}}", "circle: a -> a"),
        (
            "steps: {z: {run: [x], needs: [a]}, a: {run: [x], needs: [b]}, "
            "b: {run: [x], needs: [a]}}",
            "circle: a -> b -> a",
        ),
        ("steps: {a: {run: [x], neds: []}}", "unknown key 'steps.a.neds'"),
        ("stps: {}", "unknown key 'stps': did you mean 'steps'?"),
        ("steps: {a: {run: []}}", "steps.a.run: give the words of a command"),
        ("steps: {a: {run: hcl data}}", "'steps.a.run'"),
        ("steps: {}", "there are none"),
        ("steps: {a: {run: ['${nn}']}}", "unknown variable '${nn}'; did you mean 'n'?"),
        ("steps: {a: {run: [x], makes: ['${m}']}}", "steps.a.makes: unknown variable"),
        ("steps: {'a b': {run: [x]}}", "names are of letters"),
        ("steps: {a: {run: [x]}, a: {run: [y]}}", "'a' stands twice"),
        ("steps: {a: {run: [x], matrix: {n: [1]}}}", "is a variable of the pipeline already"),
        ("steps: {a: {run: [x], matrix: {s: [1, 1]}}}", "give values, each once"),
        ("steps: {a: {run: [x], matrix: {s: []}}}", "give values, each once"),
        ("steps: {a: {run: [x], matrix: {s: ['${m}']}}}", "steps.a.matrix.s: unknown variable"),
        ("steps: {a: {run: [x], matrix: {s: [3, '${n}']}}}", "give values, each once"),
        ("steps: {a: {run: [x], cluster: {nodes: '${m}'}}}", "steps.a.cluster: unknown variable"),
        ("steps: [", "not YAML"),
    ],
)
def test_load__fault(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, HEAD + text)
    assert message in str(error.value)
    assert "p.yaml" in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_load__variables_have_no_variables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vars\.b: variables are put into words only"):
        load(tmp_path, "name: p\nvars: {output: o, b: '${output}/x'}\nsteps: {a: {run: [x]}}")


def test_load__output_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vars\.output: missing"):
        load(tmp_path, "name: p\nvars: {n: 1}\nsteps: {a: {run: [x]}}")


@pytest.mark.parametrize("override", ["m=1", "n", "outptu=x"])
def test_load__override_of_nothing(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match="give key=value with a variable of"):
        load(tmp_path, HEAD + "steps: {a: {run: [x]}}", override)


def test_load__words_are_text_as_written(tmp_path: Path) -> None:
    text = "steps: {a: {run: [x, 1e-4, 010, yes, null, 0.10, '${n}', 'a=${n}b${n}', '$${n}', $n]}}"
    words = load(tmp_path, HEAD + text, "n=${output}; rm -rf *").steps["a"].words
    value = "${output}; rm -rf *"
    expected = ("x", "1e-4", "010", "yes", "null", "0.10", value, f"a={value}b{value}", "${n}")
    assert words == (*expected, "$n")


def test_load__order_is_the_file_s_where_needs_allow(tmp_path: Path) -> None:
    text = "steps: {c: {run: [x], needs: [b]}, a: {run: [x]}, b: {run: [x]}, d: {run: [x]}}"
    assert list(load(tmp_path, HEAD + text).steps) == ["a", "b", "c", "d"]


def test_load__matrix(tmp_path: Path) -> None:
    text = """
steps:
  pre: {run: [x, 's=${seed}'], matrix: {seed: [0, 1]}}
  eval: {run: [x, '${seed}', '${k}'], matrix: {seed: [0, 1], k: [a]}, needs: [pre]}
  all: {run: [x], needs: [eval]}
"""
    pipeline = load(tmp_path, HEAD + text)
    assert {step.name: step.needs for step in pipeline.steps.values()} == {
        "pre[seed=0]": (),
        "pre[seed=1]": (),
        "eval[seed=0,k=a]": ("pre[seed=0]",),
        "eval[seed=1,k=a]": ("pre[seed=1]",),
        "all": ("eval[seed=0,k=a]", "eval[seed=1,k=a]"),
    }
    assert pipeline.steps["pre[seed=1]"].words == ("x", "s=1")
    assert pipeline.chosen("pre") == ["pre[seed=0]", "pre[seed=1]"]
    assert pipeline.with_dependants(["pre[seed=1]"]) == {"pre[seed=1]", "eval[seed=1,k=a]", "all"}
    with pytest.raises(InputError, match="no step 'al' in pipeline 'p'; did you mean 'all'"):
        pipeline.chosen("al")


TABLE = """
name: p
vars: {output: out, seeds: 0 1, here: a b, there: c, gpus: 8}
steps:
  fetch: {run: [x]}
  unpack: {run: [x], needs: [fetch]}
  index: {run: [x]}
  pre_here: {run: [x, '${row}'], matrix: {row: ['${here}']}, needs: [index]}
  pre_there:
    run: [x, '${row}']
    matrix: {row: ['${there}']}
    needs: [unpack, index]
    cluster: {gpus_per_node: '${gpus}', nodes: 2}
  eval:
    run: [x, '${row}', '${seed}']
    matrix: {row: ['${here}', '${there}', d], seed: ['${seeds}']}
    needs: [pre_here, pre_there]
  all: {run: [x], needs: [eval]}
"""


def test_load__matrix_of_variables(tmp_path: Path) -> None:
    steps = load(tmp_path, TABLE, "gpus=4").steps
    assert [name for name in steps if name.startswith("eval")] == [
        f"eval[row={row},seed={seed}]" for row in "abcd" for seed in "01"
    ]
    assert steps["eval[row=b,seed=1]"].needs == ("pre_here[row=b]",)
    assert steps["eval[row=c,seed=1]"].needs == ("pre_there[row=c]",)
    assert steps["eval[row=d,seed=1]"].needs == ()
    assert steps["pre_there[row=c]"].cluster == (("gpus_per_node", "4"), ("nodes", "2"))


def test_load__what_only_left_out_steps_need_is_left_out(tmp_path: Path) -> None:
    steps = load(tmp_path, TABLE, "there=", "seeds=7").steps
    assert list(steps) == [
        *("index", "pre_here[row=a]", "pre_here[row=b]"),
        *("eval[row=a,seed=7]", "eval[row=b,seed=7]", "eval[row=d,seed=7]", "all"),
    ]
    with pytest.raises(InputError, match="all are left out"):
        load(tmp_path, HEAD + "steps: {a: {run: [x], matrix: {s: ['${n}']}}}", "n= ")
