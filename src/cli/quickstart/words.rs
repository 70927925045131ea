//! The message of a started quickstart: its address, the accounts, and commands to paste.

use super::accounts::Person;
use super::demo::Demo;
use super::place::Place;
use super::python::Python;
use crate::crypto;

pub(super) fn ready(
    address: &str,
    place: &Place,
    python: &Python,
    administrator: &Person,
    demo: Option<&Demo>,
) -> String {
    let mut text = format!("\nMLflow {} is ready at {address}\n\n", python.version);
    text += &format!("Sign in there as\n{}", account(administrator, place));
    text += &format!(
        "\nUse it from Python; paste this into a shell:\n\n{}",
        pasted(address, &python.executable.display().to_string(), administrator)
    );
    if let Some(demo) = demo {
        text += &demonstration(address, demo, place);
    }
    text += &format!("\nAll data is in {}\nPress Ctrl-C to stop.", place.root());
    text
}

fn account(person: &Person, place: &Place) -> String {
    let name = &person.user.name;
    let password = match &person.password {
        Some(password) => format!("{}   (shown once)", crypto::reveal(password)),
        None => format!(
            "as before; a new one: {} user set-password {} --store {}",
            quoted(&program()),
            quoted(name),
            quoted(&format!("sqlite://{}", place.store()))
        ),
    };
    format!("  user      {name}\n  password  {password}\n")
}

/// Returns the path of this program, which need not be on the `PATH`.
fn program() -> String {
    std::env::current_exe().map_or_else(|_| "mlflow-auth-proxy".to_owned(), |path| path.display().to_string())
}

fn pasted(address: &str, python: &str, person: &Person) -> String {
    format!(
        "export MLFLOW_TRACKING_URI={address}\n\
         export MLFLOW_TRACKING_USERNAME={}\n\
         export MLFLOW_TRACKING_PASSWORD={}\n\
         {} - <<'PYTHON'\n\
         import mlflow\n\
         mlflow.set_experiment(\"first\")\n\
         with mlflow.start_run():\n    \
             mlflow.log_param(\"learning_rate\", 0.01)\n    \
             mlflow.log_metric(\"loss\", 0.42)\n\
         PYTHON\n",
        quoted(&person.user.name),
        person.token.reveal(),
        quoted(python),
    )
}

fn demonstration(address: &str, demo: &Demo, place: &Place) -> String {
    let mut text = format!(
        "\nalice owns the experiment `demo`, bob is allowed to read it: {address}/#/experiments/{}\n",
        demo.experiment
    );
    for person in [&demo.alice, &demo.bob] {
        text += &account(person, place);
        text += &format!("  token     {}\n", person.token.reveal());
    }
    text
}

/// Quotes text for a POSIX shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@=+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
