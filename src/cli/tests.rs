use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::moment::{Moment, in_words};
use super::output::aligned;
use super::password::first_line;
use super::*;
use crate::clock::Timestamp;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn each_wrong_command_line_is_refused_with_2() {
    wrong("");
    wrong("server");
    wrong("grant set --user a --permission READ");
    wrong("grant set --user a --permission READ --experiment 1 --prompt p");
    wrong("grant set --user a --permission READ --type gateway_endpoint");
    wrong("grant set --user a --permission READ --resource x");
    wrong("grant set --user a --permission ALL --experiment 1");
    wrong("role grant analysts --experiment 12");
    wrong("role grant analysts --permission READ");
    wrong("role assign analysts");
    wrong("token create --user a");
    wrong("token revoke");
    wrong("token revoke --user a");
    wrong("token revoke 1 --user a --name n");
    wrong("token rotate --name n");
    wrong("role show");
    wrong("audit list --since yesterday");
    wrong("audit list --outcome maybe");
    wrong("audit export --since yesterday");
    wrong("store copy --from sqlite://a.db");
    wrong("store backup");
    wrong("store restore");
    wrong("audit list --address nowhere");
    wrong("user set-admin a maybe");
    wrong("session end");
    wrong("session end 1 --user a");
    wrong("session end everything");
    wrong("quickstart --mlflow-version ../x");
    wrong("quickstart --mlflow-version 3.17.2 --mlflow-python python3");
    wrong("check-config --set listen");
    wrong("health --url https://127.0.0.1:9090/readyz");
    wrong("health --url 127.0.0.1:9090");
    wrong("health --live --url http://127.0.0.1:9090/livez");
    wrong("health --timeout 0");
}

#[test]
fn each_right_command_line_is_understood() {
    right("serve --listen 127.0.0.1:1 --upstream http://x --set log.level=debug");
    right("grant set --user a --permission READ --type gateway_endpoint --resource x --json");
    right("grant delete --user a --experiment 1");
    right("grant --json list");
    right("role create analysts --workspace team --description x");
    right("role grant analysts --type run --resource * --permission READ");
    right("role revoke analysts --experiment 12");
    right("role assign analysts --user alice --json");
    right("token create --user a --name n --scope read-only --scope experiment:1 --expires-in-days 3");
    right("token revoke 12 --json");
    right("token rotate 12 --expires-in-days 3");
    right("token revoke --user a --name n");
    right("role show analysts --workspace team --json");
    right("audit list --user a --action token --outcome denied --operation GetRun --address ::1 --since 7d");
    right("user set-admin a false --store sqlite://x.db");
    right("session list --json");
    right("audit export --since 7d --until 2026-12-01");
    right("store copy --from sqlite://a.db --to postgres://u@localhost/d --to-password-file p --json");
    right("store backup --overwrite b.db");
    right("store restore b.db");
    right("store check");
    right("store check b.db --json");
    right("session end 12");
    right("health");
    right("health --live --timeout 2");
    right("health --url http://[::1]:9090/readyz");
    right("session end --user a --json");
    right("completions bash");
    right("man --out d");
    right("quickstart --demo --dir d --mlflow-version 3.9.0 --port 0");
}

#[test]
fn short_flags_become_keys() {
    let cli = parse("serve --listen 127.0.0.1:1 --upstream http://x --store sqlite://s --set log.level=a=b").unwrap();
    let mut flags = cli.settings.into_flags();
    let Command::Serve(arguments) = cli.command else { panic!("serve") };
    arguments.add_to(&mut flags);
    let set: Vec<(&str, &str)> = flags.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [
        ("log.level", "a=b"),
        ("store.url", "sqlite://s"),
        ("server.listen", "127.0.0.1:1"),
        ("upstream.url", "http://x"),
    ];
    assert_eq!(set, expected);
}

#[test]
fn a_table_is_aligned_and_cannot_drive_a_terminal() {
    let rows = [["1".to_owned(), "ann\x1b[2J".to_owned()], ["100".to_owned(), "b".to_owned()]];
    assert_eq!(aligned(["ID", "NAME"], rows), "ID   NAME\n1    ann\\u{1b}[2J\n100  b");
    assert_eq!(text::plain("a\nb\u{9b}é"), "a\\nb\\u{9b}é");
}

#[test]
fn a_time_is_utc_to_the_second() {
    assert_eq!(Timestamp(1_735_787_045_999).rfc3339(), "2025-01-02T03:04:05Z");
    assert_eq!(Timestamp(i64::MAX).rfc3339(), i64::MAX.to_string());
}

#[test]
fn a_moment_is_a_time_a_date_or_a_duration_before_now() {
    let now = Timestamp(1_735_787_045_999);
    let at = |text: &str| text.parse::<Moment>().map(|moment| moment.at(now).0);
    assert_eq!(at("90m"), Ok(now.0 - 90 * 60_000));
    assert_eq!(at("7d"), Ok(now.0 - 7 * 86_400_000));
    assert_eq!(at("2025-01-02"), Ok(1_735_776_000_000));
    assert_eq!(at("2025-01-02T03:04:05.5Z"), Ok(1_735_787_045_500));
    assert_eq!(at("2025-01-02T05:04:05+02:00"), Ok(1_735_787_045_000));
    for wrong in ["", "7", "d", "-1d", "1w", "yesterday", "2025-13-01", "99999999999999999999d", "213503982334602d"] {
        assert!(at(wrong).is_err(), "{wrong}");
    }
    assert!(at("200000000000d").is_ok());
}

#[test]
fn a_duration_is_told_in_its_largest_unit() {
    let words = |seconds| in_words(std::time::Duration::from_secs(seconds));
    assert_eq!(
        [words(0), words(1), words(119), words(7200), words(200_000)],
        ["0 seconds", "1 second", "1 minute", "2 hours", "2 days"]
    );
}

#[test]
fn a_password_is_the_first_line_of_standard_input() {
    assert_eq!(first_line(&b"correct horse\nmore\n"[..]).unwrap(), "correct horse");
    assert_eq!(first_line(&b" spaces stay \r\n"[..]).unwrap(), " spaces stay ");
    first_line(&b""[..]).unwrap_err();
    first_line(&b"\nsecond"[..]).unwrap_err();
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["mlflow-auth-proxy"].into_iter().chain(line.split_whitespace()))
}

#[track_caller]
fn right(line: &str) {
    if let Err(error) = parse(line) {
        panic!("{line}: {error}");
    }
}

#[track_caller]
fn wrong(line: &str) {
    assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
}

#[test]
fn commands_in_the_documents_are_understood() {
    let mut checked = 0;
    for folder in [".", "docs", "deploy/compose", "deploy/systemd", "examples/ci", "examples/keycloak"] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "md") || path.ends_with("CHANGELOG.md") {
                continue;
            }
            for words in documented(&std::fs::read_to_string(&path).unwrap()) {
                checked += 1;
                let given = std::iter::once("mlflow-auth-proxy").chain(words.iter().map(String::as_str));
                let refused = Cli::try_parse_from(given).err().filter(clap::Error::use_stderr);
                // A text names commands also without their arguments.
                let refused = refused.filter(|error| {
                    !matches!(
                        error.kind(),
                        ErrorKind::MissingRequiredArgument
                            | ErrorKind::MissingSubcommand
                            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    )
                });
                assert!(refused.is_none(), "{}: {words:?}: {}", path.display(), refused.unwrap());
            }
        }
    }
    assert!(checked > 80, "{checked}");
}

/// Returns the arguments of commands in code, up to the first character that ends a command in a shell.
fn documented(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let known: Vec<String> = Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let commands = text.split("mlflow-auth-proxy ").skip(1).map(arguments);
    commands.filter(|words| words.first().is_some_and(|first| known.contains(first))).collect()
}

fn arguments(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match (quote, c) {
            // Also inside quotes, which may be those of a shell around the command.
            (_, '\n') => break,
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ') => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            (None, '`' | '|' | '>' | '<' | ';' | '&' | '#' | ')') => break,
            _ => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}
