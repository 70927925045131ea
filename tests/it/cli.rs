//! The binary as people and scripts call it: what it prints, where, and with which exit code.

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use mlflow_auth_proxy::clock::Stopwatch;
use serde_json::Value;

#[test]
fn accounts_tokens_and_grants_from_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path();
    let ok = |line: &str| succeeds(here, line, "");

    assert!(fails(here, "user list", "", 1).contains("there is no store"));
    let said = fails(here, "user create ann --password-stdin", "correct horse battery", 1);
    assert!(said.contains("Add --admin, or run `mlflow-auth-proxy serve`"), "{said}");
    let made = json(&succeeds(here, "user create root --admin --password-stdin --json", "correct horse battery\n"));
    assert_eq!((made["username"].as_str(), made["is_admin"].as_bool()), (Some("root"), Some(true)));
    assert!(fails(here, "user create ann --password-stdin", "short", 1).contains("at least 12 characters"));
    succeeds(here, "user create ann --password-stdin", "correct horse battery");
    assert!(fails(here, "user create ann --password-stdin", "correct horse battery", 1).contains("already exists"));
    assert!(fails(here, "user delete root", "", 1).contains("last administrator"));

    let token = ok("token create --user ann --name laptop --scope read-only");
    assert!(token.starts_with("mlap_") && token.lines().count() == 1, "only the token is on standard output");
    assert!(fails(here, "token create --user ann --name laptop", "", 1).contains("token rotate"));
    assert!(fails(here, "token create --user ann --name b --scope everything", "", 1).contains("is not a scope"));
    assert!(fails(here, "token create --user ann --name b --expires-in-days 366", "", 1).contains("between 1 and 365"));
    let rotated = json(&ok("token rotate --user ann --name laptop --json"));
    assert_ne!(rotated["token"].as_str(), Some(token.trim()));
    let id = json(&ok("token list --user ann --json"))["tokens"][0]["id"].to_string();
    assert_eq!(json(&ok(&format!("token rotate {id} --json")))["name"], "laptop");
    assert_eq!(ok(&format!("token revoke {id}")), "token `laptop` of `ann` was revoked\n");
    assert!(fails(here, &format!("token revoke {id}"), "", 1).contains("already revoked"));
    assert!(fails(here, "token revoke 99", "", 1).contains("no token 99"));
    assert!(
        fails(here, "token revoke --user ann --name laptop", "", 1).contains("no token `laptop` that is not revoked")
    );
    let listed = json(&ok("token list --user ann --json"));
    assert_eq!(listed["tokens"][0]["state"], "revoked");
    assert_eq!(listed["tokens"][0]["token"], Value::Null);

    ok("grant create --user ann --experiment 12 --permission READ");
    assert!(fails(here, "grant create --user ann --experiment 12 --permission EDIT", "", 1).contains("grant set"));
    ok("grant set --user ann --experiment 12 --permission EDIT");
    ok("grant set --user ann --registered-model glob:fraud-* --permission READ");
    assert!(fails(here, "grant set --user ann --experiment demo --permission READ", "", 1).contains("number"));
    assert!(fails(here, "grant set --user eve --experiment 1 --permission READ", "", 1).contains("no user `eve`"));
    assert_eq!(
        ok("grant list"),
        "SUBJECT  TYPE              RESOURCE      NAME  PERMISSION\n\
         ann      experiment        12            -     EDIT\n\
         ann      registered_model  glob:fraud-*  -     READ\n"
    );
    ok("grant revoke --user ann --experiment 12");
    assert!(fails(here, "grant delete --user ann --experiment 12", "", 1).contains("no such grant"));

    ok("user delete ann");
    assert_eq!(json(&ok("grant list --json"))["grants"].as_array().map(Vec::len), Some(0));
    let audit = json(&ok("audit list --limit 1 --json"));
    assert_eq!(audit["entries"][0]["action"], "user.delete");
    assert_eq!(audit["entries"][0]["actor"], "command-line");

    let actions = |line: &str| -> Vec<String> {
        let found = json(&ok(&format!("audit list --json {line}")));
        let entries = found["entries"].as_array().expect("a list").iter();
        entries.map(|entry| entry["action"].as_str().expect("a word").to_owned()).collect()
    };
    assert_eq!(actions("--action token"), ["token.revoke", "token.rotate", "token.rotate", "token.create"]);
    assert_eq!(actions("--resource experiment:12"), ["grant.delete", "grant.set", "grant.create"]);
    assert_eq!(actions("--resource user:ann"), ["user.delete", "user.create"]);
    assert_eq!(actions("--outcome denied --since 1h").len(), 0);
    assert_eq!(actions("--until 1h --user command-line").len(), 0);
    let created = ok("audit list --action token.create");
    assert!(created.contains(", expires 20") && created.trim_end().ends_with('Z'), "{created}");
}

#[test]
fn a_role_with_many_members_is_one_short_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let ok = |line: &str| succeeds(dir.path(), line, "");
    succeeds(dir.path(), "user create member-0 --admin --password-stdin", "correct horse battery\n");
    for number in 1..4 {
        let line = format!("user create member-{number} --password-stdin");
        succeeds(dir.path(), &line, "correct horse battery\n");
    }
    ok("role create analysts --description Analysis");
    for number in 0..4 {
        ok(&format!("role assign analysts --user member-{number}"));
    }
    ok("role grant analysts --experiment 12 --permission EDIT");
    assert_eq!(ok("role list"), "ID  WORKSPACE  NAME      MEMBERS  PERMISSIONS\n1   default    analysts  4        1\n");
    assert_eq!(
        ok("role show analysts"),
        "role       analysts\nworkspace  default\npurpose    Analysis\n\n\
         4 members\n  member-0\n  member-1\n  member-2\n  member-3\n\n\
         1 permissions\n  TYPE        RESOURCE  NAME  PERMISSION\n  experiment  12        -     EDIT\n"
    );
    let listed = json(&ok("role list --json"));
    assert_eq!(listed["roles"][0], json(&ok("role show analysts --json")), "as JSON, both have everything");
    assert_eq!(listed["roles"][0]["members"].as_array().map(Vec::len), Some(4));
    assert!(fails(dir.path(), "role show nobodys", "", 1).contains("no role `nobodys`"));
}

#[test]
fn a_wrong_configuration_ends_with_2_and_every_problem() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("wrong.toml"), "[server]\nlisten = \"0.0.0.0:1\"\nport = 1\n").expect("a file");
    for command in ["check-config", "serve", "user list"] {
        let said = fails(dir.path(), &format!("{command} --config wrong.toml --set log.level=loud"), "", 2);
        let keys: Vec<&str> = said.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(keys, ["log.level", "server.listen", "server.port"], "{said}");
    }
    let valid = succeeds(dir.path(), "check-config", "");
    assert!(valid.ends_with("configuration is valid\n") && valid.contains("upstream.url"), "{valid}");
    assert!(fails(dir.path(), "serv", "", 2).contains("unrecognized subcommand"));
}

#[test]
fn the_example_policy_holds_and_decides_as_it_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/policy.toml");
    let ok = |line: &str| succeeds(dir.path(), line, "");
    assert!(ok(&format!("policy check {file}")).contains("valid, 5 grants"));
    assert!(ok(&format!("policy test {file}")).ends_with("5 tests, 0 failed\n"));
    let ask = |who: &str| format!("policy test {file} --user {who} --operation EDIT --resource experiment:fraud-eu");
    let allowed = ok(&ask("ann --groups /other,/ml/team-a"));
    assert!(allowed.starts_with("allowed: ") && allowed.contains("group:/ml/team-a (policy file, line"), "{allowed}");
    assert!(denies(dir.path(), &ask("ann --groups /ml/team-b")).starts_with("denied: EDIT on experiment:fraud-eu"));
    let valid = ok(&format!("check-config --set authz.policy_file={file} --set authz.shadow_policy_file={file}"));
    assert!(valid.ends_with("configuration is valid\n"), "{valid}");
}

#[test]
fn a_policy_that_is_wrong_or_decides_otherwise_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |text: &str| std::fs::write(dir.path().join("p.toml"), text).expect("a file");
    let grant =
        |to: &str| format!("[[grants]]\nto = {{ {to} }}\non = {{ experiment = \"x\" }}\npermission = \"READ\"\n");
    write(&(grant("team = \"a\"") + &grant("group = \"/a*\"")));
    for line in ["policy check p.toml", "policy test p.toml"] {
        let said = fails(dir.path(), line, "", 2);
        assert!(said.contains("line 1: grants 1") && said.contains("line 5: grants 2"), "{said}");
    }
    for line in ["check-config", "serve --listen 127.0.0.1:0"] {
        let said = fails(dir.path(), &format!("{line} --set authz.policy_file=p.toml"), "", 2);
        assert!(said.starts_with("authz.policy_file: line 1") && said.lines().count() == 2, "{said}");
        let said = fails(dir.path(), &format!("{line} --set authz.shadow_policy_file=absent.toml"), "", 2);
        assert!(said.starts_with("authz.shadow_policy_file: the file cannot be read"), "{said}");
    }
    let test = "[[tests]]\nwho = { user = \"ann\" }\noperation = \"EDIT\"\non = { experiment = \"x\" }\nexpect = \"allowed\"\n";
    write(&(grant("user = \"ann\"") + test));
    let said = denies(dir.path(), "policy test p.toml");
    assert!(said.starts_with("FAILED line 5: ") && said.ends_with("1 tests, 1 failed\n"), "{said}");
}

#[test]
fn serve_drains_at_the_first_signal_and_ends_at_the_second() {
    let dir = tempfile::tempdir().expect("a folder");
    let common = "serve --listen 127.0.0.1:0 --set admin.listen=127.0.0.1:0";
    let mut patient = Serving::start(dir.path(), &format!("{common} --set server.drain_delay_seconds=0"));
    let ready = patient.until("ready on");
    assert!(ready.contains("127.0.0.1:"), "{ready}");
    let warned = patient.until("password");
    assert!(warned.contains("user set-password admin"), "without a terminal it is not shown: {warned}");
    patient.signal("TERM");
    assert_eq!(patient.child.wait().expect("an end").code(), Some(0));

    let mut hasty = Serving::start(dir.path(), &format!("{common} --set server.drain_delay_seconds=3600"));
    hasty.until("ready on");
    hasty.signal("INT");
    hasty.until("draining");
    hasty.signal("TERM");
    assert_eq!(hasty.child.wait().expect("an end").code(), Some(143));
}

/// With a limit of open files below what the default number of connections needs, and when there is none left.
#[test]
fn silent_connections_leave_descriptors_for_probes_and_for_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = "serve --listen 127.0.0.1:0 --set admin.listen=127.0.0.1:0 --set server.drain_delay_seconds=0";
    let mut limited = Serving::with_limit(dir.path(), line, 256);
    let warning = limited.until("server.max_connections");
    assert!(warning.contains("this process has 256"), "{warning}");
    let ready = json(&limited.until("ready on"));
    let address = |key: &str| ready[key].as_str().expect("an address").to_owned();
    let (main, admin) = (address("address"), address("admin"));
    let pid = rustix::process::Pid::from_child(&limited.child);
    let before = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("/proc").count() as u64;
    let silent: Vec<_> = (0..300).filter_map(|_| TcpStream::connect(&main).ok()).collect();
    assert_eq!(silent.len(), 300);
    let both = [(&main, "/auth/login"), (&admin, "/livez")];
    for (address, path) in both {
        let answer = answer(address, path);
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
    }
    // The limit falls below much of what is in use, so some of the connections that are closed then free no number that
    // helps. The store may still open files.
    let limit = rustix::process::Rlimit { current: Some(before + 20), maximum: Some(256) };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, limit).expect("prlimit");
    for _ in 0..3 {
        for (address, path) in both {
            let answer = answer(address, path);
            assert!(answer.starts_with("HTTP/1.1 "), "without descriptors, {path}: {answer}");
        }
    }
    limited.signal("TERM");
    limited.child.wait().expect("an end");
}

/// What is answered to a GET. A connection in the middle of a burst of others may be refused, so it is tried again.
fn answer(address: &str, path: &str) -> String {
    let watch = Stopwatch::start();
    loop {
        let answer = answer_once(address, path);
        if !answer.is_empty() || watch.elapsed() > crate::harness::PATIENCE {
            return answer;
        }
    }
}

fn answer_once(address: &str, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).expect("a connection");
    tcp.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a limit");
    let _ = tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A `serve` that runs, and what it says on standard error.
struct Serving {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Serving {
    fn start(here: &Path, line: &str) -> Self {
        Self::spawn(binary(here, line))
    }

    /// Under a hard limit of open files.
    fn with_limit(here: &Path, line: &str, limit: u64) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            &format!("ulimit -n {limit}; exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_mlflow-auth-proxy"),
        ]);
        command.args(line.split_whitespace()).current_dir(here).env_clear();
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().expect("the binary");
        let lines = BufReader::new(child.stderr.take().expect("standard error")).lines();
        Self { child, lines }
    }

    fn until(&mut self, words: &str) -> String {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        lines.find(|line| line.contains(words)).unwrap_or_else(|| panic!("it never said `{words}`"))
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().expect("a shell").success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn succeeds(here: &Path, line: &str, input: &str) -> String {
    let output = run(here, line, input);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it said on standard error.
fn fails(here: &Path, line: &str, input: &str, code: i32) -> String {
    let output = run(here, line, input);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(output.stdout.is_empty(), "{line}: an error is not an answer");
    said
}

/// What it said on standard output, when that is a no.
fn denies(here: &Path, line: &str) -> String {
    let output = run(here, line, "");
    assert_eq!(output.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn run(here: &Path, line: &str, input: &str) -> Output {
    let mut child = binary(here, line).stdin(Stdio::piped()).spawn().expect("the binary");
    // It may have ended without reading.
    let _ = child.stdin.take().expect("standard input").write_all(input.as_bytes());
    child.wait_with_output().expect("an end")
}

fn binary(here: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlflow-auth-proxy"));
    command.args(line.split_whitespace()).current_dir(here).env_clear();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
