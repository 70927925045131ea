use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::place::tail;
use super::python::{Environment as PythonEnvironment, version};
use super::words::quoted;
use super::*;

#[test]
fn a_place_is_for_one_at_a_time_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("try");
    let place = Place::open(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(Place::open(&root).unwrap_err().to_string().contains("another quickstart is running"));
    drop(place);
    Place::open(&root).unwrap();
}

#[test]
fn a_place_that_others_could_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |root: &Path, why: &str| {
        let said = Place::open(root).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    };
    let victim = dir.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    for entry in ["lock", "proxy.db", "mlflow.db", "mlflow.log", "mlflow.pid", "artifacts"] {
        for hard in [false, true] {
            let root = dir.path().join(format!("{entry}-{hard}"));
            fs::create_dir(&root).unwrap();
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
            let link = root.join(entry);
            if hard {
                fs::hard_link(&victim, &link).unwrap()
            } else {
                std::os::unix::fs::symlink(&victim, &link).unwrap()
            }
            let error = Place::open(&root).unwrap_err().to_string();
            assert!(error.contains("--dir") || entry == "artifacts", "{error}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        }
    }
    let linked = dir.path().join("linked");
    std::os::unix::fs::symlink(dir.path(), &linked).unwrap();
    refused(&linked, "is a link");
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&open, "other users are allowed to write");
}

#[test]
fn files_of_an_earlier_quickstart_become_its_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mlflow.db");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let _place = Place::open(dir.path()).unwrap();
    for file in [file, dir.path().join("lock")] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_place_whose_name_would_change_the_database_url_is_refused() {
    for name in ["a?mode=memory", "a#b", "a%20b"] {
        let dir = tempfile::tempdir().unwrap();
        assert!(Place::open(&dir.path().join(name)).unwrap_err().to_string().contains("choose another --dir"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made for {name}");
    }
}

#[test]
fn the_configuration_is_whole_and_flags_win() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::open(&dir.path().join("with space")).unwrap();
    let flags = Flags { config: None, set: vec![("log.level".to_owned(), "debug".to_owned())] };
    let config = configuration(&arguments(), &place, 5001, flags).unwrap();
    assert_eq!(config.upstream.url.as_str(), "http://127.0.0.1:5001/");
    assert_eq!(config.store.url, format!("sqlite://{}/with space/proxy.db", dir.path().display()));
    assert_eq!(config.log.level, "debug");
    assert!(config.server.drain_delay.is_zero());
}

#[test]
fn a_taken_port_is_said_early() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    assert!(free(port).unwrap_err().to_string().contains("--port"));
    free(0).unwrap();
}

#[test]
fn a_version_is_a_version() {
    for right in ["3.17.2", "2.10.0", "3.9.0rc1"] {
        assert_eq!(version(right).unwrap(), right);
    }
    for wrong in ["", "latest", "../3", "3.17.2/..", "3;rm", "3.", "==3"] {
        version(wrong).unwrap_err();
    }
}

#[tokio::test]
async fn an_environment_counts_only_when_its_mlflow_can_be_imported() {
    let cache = tempfile::tempdir().unwrap();
    let environment = PythonEnvironment::new(cache.path(), "3.17.2");
    let why = |error: anyhow::Error| format!("{error:#}");
    assert!(why(environment.verify().await.unwrap_err()).contains("there is no"));
    python_that(cache.path(), "echo 'ModuleNotFoundError: no mlflow' >&2; exit 1");
    assert!(why(environment.verify().await.unwrap_err()).contains("ModuleNotFoundError"));
    python_that(cache.path(), "echo 3.9.0");
    assert!(why(environment.verify().await.unwrap_err()).contains("has MLflow 3.9.0"));
    python_that(cache.path(), "echo a warning; echo 3.17.2");
    environment.verify().await.unwrap();
}

#[tokio::test]
async fn an_mlflow_is_started_noted_and_ended_with_its_workers() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = Place::open(dir.path()).unwrap();
    // A server that ignores the polite signal, with a worker; the loop only ends when killed.
    let executable = python_that(cache.path(), "trap '' TERM; sleep 1000 & echo \"$@\"; while :; do sleep 1000; done");
    let python = Python { executable, version: "3.17.2".to_owned() };
    let mut mlflow = Mlflow::start(&python, &place, 5001).await.unwrap();
    let group: u32 = fs::read_to_string(place.pid_file()).unwrap().parse().unwrap();
    assert!(Path::new(&format!("/proc/{group}")).exists());
    mlflow.kill().await;
    assert!(!place.pid_file().exists());
    assert!(!Path::new(&format!("/proc/{group}")).exists());
}

#[tokio::test]
async fn an_mlflow_that_ends_by_itself_says_why() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = Place::open(dir.path()).unwrap();
    let executable = python_that(cache.path(), "echo 'the port is taken' >&2; exit 3");
    let mut mlflow = Mlflow::start(&Python { executable, version: "x".to_owned() }, &place, 5001).await.unwrap();
    let why = mlflow.ended().await.to_string();
    assert!(why.contains("exit status: 3") && why.contains("the port is taken"), "{why}");
    mlflow.kill().await;
}

#[test]
fn the_tail_of_a_log_is_short_and_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let lines: Vec<String> = (0..10_000).map(|n| format!("line {n} \x1b[31m")).collect();
    fs::write(&log, lines.join("\n")).unwrap();
    let shown = tail(&log);
    assert!(shown.contains("line 9999") && !shown.contains("line 9979 ") && !shown.contains('\x1b'));
}

#[test]
fn what_is_pasted_is_quoted_for_a_shell() {
    assert_eq!(quoted("/opt/python3.11/bin/python"), "/opt/python3.11/bin/python");
    assert_eq!(quoted("/my dir/it's"), r"'/my dir/it'\''s'");
    assert_eq!(quoted("$(rm)"), "'$(rm)'");
}

#[test]
fn the_demo_reads_its_experiment_from_the_clients_output() {
    assert_eq!(demo::experiment_id("View run at x\nexperiment_id=7\n").unwrap(), "7");
    demo::experiment_id("nothing").unwrap_err();
}

/// A Python that is a shell script, where the environment for 3.17.2 would have its own.
fn python_that(cache: &Path, does: &str) -> PathBuf {
    let bin = cache.join("mlflow-3.17.2/bin");
    fs::create_dir_all(&bin).unwrap();
    let executable = bin.join("python");
    // A process of its own writes it: what we write may stay open in a child that another test starts meanwhile, and
    // a file that is open for writing cannot be run.
    let text = bin.join("text");
    fs::write(&text, format!("#!/bin/sh\n{does}\n")).unwrap();
    let installed = std::process::Command::new("install").arg("-m755").args([&text, &executable]).status().unwrap();
    assert!(installed.success());
    executable
}

fn arguments() -> Arguments {
    Arguments {
        demo: false,
        dir: PathBuf::from("unused"),
        mlflow_version: "3.17.2".to_owned(),
        port: 8080,
        mlflow_python: None,
    }
}
