"""Generates the Python stubs of every proto (`make gen`), or tells which ones are stale (`--check`)."""

import argparse
import filecmp
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One folder of protos and the folder that its Python goes to."""

    protos: Path
    """What to generate, below `imports`."""
    imports: Path
    """The import root of these protos."""
    out: Path
    """Python import root; the stubs of `a/b.proto` land in `out/a/`."""

    @property
    def package(self) -> Path:
        return self.out / self.protos.relative_to(self.imports)

    def sources(self) -> list[Path]:
        return sorted(self.protos.rglob("*.proto"))


def trees(root: Path) -> list[Tree]:
    """What is generated. google/* is never here: wheels ship its Python. buf/validate is, because none does."""
    vendored = root / "third_party"
    return [
        Tree(protos=root / "protos" / "lepton", imports=root / "protos", out=root / "sdk"),
        Tree(protos=vendored / "buf", imports=vendored, out=root / "sdk"),
        Tree(protos=vendored / "chassis" / "etcdpb", imports=vendored, out=root),
        Tree(protos=vendored / "services" / "inference" / "envoy" / "extprocpb", imports=vendored, out=root),
    ]


def generate(tree: Tree, out: Path, root: Path) -> None:
    """Compiles one tree into `out`; exits with protoc's own message when it does not compile."""
    from grpc_tools import protoc

    bin_dir = Path(sys.prefix) / "bin"
    arguments = [
        "protoc",
        f"--proto_path={root / 'protos'}",
        f"--proto_path={root / 'third_party'}",
        f"--proto_path={_well_known()}",
        f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
        *(str(source) for source in tree.sources()),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"protoc refused {tree.protos}: see its message above")
    for empty in [path for path in out.rglob("*_pb2_grpc.py") if _serves_nothing(path)]:
        empty.unlink()
        empty.with_suffix(".pyi").unlink(missing_ok=True)
    _add_package_files(out, tree.package.relative_to(tree.out))


def stale(fresh: Path, tree: Tree) -> Iterator[Path]:
    """The files of the tree that differ from a fresh generation, are missing, or have lost their proto."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    present = {path.relative_to(tree.out) for pattern in PATTERNS for path in tree.package.rglob(pattern)}
    for path in sorted(wanted | present):
        written = tree.out / path
        if path.name in ("__init__.py", "py.typed"):
            same = written.exists()  # these may carry hand-written text
        else:
            same = path in wanted and written.exists() and filecmp.cmp(fresh / path, written, shallow=False)
        if not same:
            yield path


def write(fresh: Path, tree: Tree, paths: list[Path]) -> None:
    """Brings the given files of the tree to the state of the fresh generation."""
    for path in paths:
        target = tree.out / path
        if not (fresh / path).exists():
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((fresh / path).read_bytes())


def run(root: Path, *, check: bool) -> int:
    """Returns the number of stale files; they are rewritten unless `check`."""
    changed = 0
    for tree in trees(root):
        if not tree.sources():
            continue
        with tempfile.TemporaryDirectory(prefix="lepton-gen-") as folder:
            fresh = Path(folder)
            generate(tree, fresh, root)
            paths = list(stale(fresh, tree))
            if not check:
                write(fresh, tree, paths)
        for path in paths:
            print(f"{'stale' if check else 'wrote'}: {(tree.out / path).relative_to(root)}")
        changed += len(paths)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.gen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a stub is stale")
    check = parser.parse_args().check
    changed = run(ROOT, check=check)
    if check and changed:
        raise SystemExit(f"{changed} generated files are stale: run `make gen` and commit the result")
    print("generated code is up to date" if not changed else f"{changed} files written")


def _well_known() -> Path:
    """The google/protobuf/*.proto that come with grpcio-tools."""
    package = find_spec("grpc_tools")
    if package is None or package.origin is None:
        raise SystemExit("grpcio-tools is not installed: run `make setup`")
    return Path(package.origin).parent / "_proto"


def _serves_nothing(path: Path) -> bool:
    return "class " not in path.read_text()


def _add_package_files(out: Path, package: Path) -> None:
    """Makes every folder with stubs, up to the tree's own package, a typed Python package."""
    folders = {path.parent for pattern in PATTERNS for path in out.rglob(pattern)}
    for folder in sorted(folders):
        for parent in [folder, *folder.parents]:
            relative = parent.relative_to(out)
            if not relative.is_relative_to(package) or relative in (Path("lepton"), Path("buf")):
                break
            name = ".".join(relative.parts)
            (parent / "__init__.py").write_text(f'"""Generated contracts of `{name}`; `make gen` writes them."""\n')


if __name__ == "__main__":
    main()
