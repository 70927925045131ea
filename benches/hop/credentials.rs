//! One hop with each kind of credential, through one process, in turns: what a warm session and a warm JWT cost beside a
//! warm access token, and what a JWT costs that was never seen before.

use std::time::Duration;

use anyhow::Context as _;
use mlflow_auth_proxy::clock::Clock;
use serde_json::json;

use crate::load::Target;
use crate::proc::Process;
use crate::provider::{FakeProvider, RSA};
use crate::{Settings, contender, setup};

const SLOT: Duration = Duration::from_millis(1_250);
const WARM_UP: Duration = Duration::from_millis(250);
const CONNECTIONS: usize = 32;
/// JWTs that come twice, in each round.
const UNSEEN: usize = 3_000;
/// So many at once come for the first time, then for the second: whatever slows the machine down for a moment hits both.
const CHUNK: usize = 100;
const CHUNK_CONNECTIONS: usize = 8;
/// So few that neither is at the limit: there, whoever answers more slowly pays more for waking those who wait.
const UNSEEN_PER_SECOND: u32 = 4_000;
/// A warm credential of any kind may cost this much of a warm access token's request.
const GOAL: f64 = 1.15;
const UNSEEN_GOAL_US: f64 = 50.0;

/// Microseconds of CPU per request, one for each slot.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    token: Vec<f64>,
    session: Vec<f64>,
    jwt: Vec<f64>,
    /// JWTs that come for the first time, and the same when they come again.
    unseen: Vec<f64>,
    seen: Vec<f64>,
}

pub(crate) async fn measure(settings: &Settings, workshop: &contender::Workshop) -> anyhow::Result<Option<Measured>> {
    let provider = FakeProvider::start(&[&RSA]);
    let issuer = provider.issuer();
    let more = [
        ("MLFLOW_AUTH_PROXY_JWT__ISSUERS__BENCH__ISSUER", issuer.clone()),
        ("MLFLOW_AUTH_PROXY_JWT__ISSUERS__BENCH__AUDIENCES", "mlflow".to_owned()),
        ("MLFLOW_AUTH_PROXY_AUTHN__PASSWORD_FORM", "true".to_owned()),
    ];
    let Some((target, process)) = workshop.start_with("credentials", &more).await? else { return Ok(None) };
    let token = setup::reader_with_token(&target).await?;
    let token = Target { authorization: Some(format!("Bearer {token}")), ..target.clone() };
    let session = Target { cookie: Some(session(&target).await?), ..target.clone() };
    let jwt = Target { authorization: Some(bearer(&issuer, "warm")), ..target.clone() };
    grant(&target, &jwt).await?;

    let mut measured = Measured::default();
    for round in 1..=settings.rounds {
        eprintln!("bench: kinds of credential, round {round} of {}", settings.rounds);
        for turn in 0..2 {
            let mut slots =
                [(&token, &mut measured.token), (&session, &mut measured.session), (&jwt, &mut measured.jwt)];
            if turn == 1 {
                slots.reverse();
            }
            for (target, into) in slots {
                target.saturate(CONNECTIONS, WARM_UP).await?;
                into.push(warm(&process, target).await?);
            }
        }
        let unseen: Vec<_> = (0..UNSEEN).map(|number| bearer(&issuer, &format!("{round}-{number}"))).collect();
        for some in unseen.chunks(CHUNK) {
            for (target, into) in [(&target, &mut measured.unseen), (&target, &mut measured.seen)] {
                into.push(each(&process, target, some).await?);
            }
        }
    }
    process.stop().await?;
    Ok(Some(measured))
}

async fn warm(process: &Process, target: &Target) -> anyhow::Result<f64> {
    let before = process.cpu()?;
    let load = target.saturate(CONNECTIONS, SLOT).await?;
    Ok(process.cpu()?.since(&before).as_secs_f64() * 1e6 / load.latencies.len() as f64)
}

/// CPU time per request, each of these once.
async fn each(process: &Process, target: &Target, authorizations: &[String]) -> anyhow::Result<f64> {
    let before = process.cpu()?;
    target.each(CHUNK_CONNECTIONS, UNSEEN_PER_SECOND, authorizations).await?;
    Ok(process.cpu()?.since(&before).as_secs_f64() * 1e6 / authorizations.len() as f64)
}

/// Signs in as a browser does; the cookie.
async fn session(target: &Target) -> anyhow::Result<String> {
    let form = format!("username=reader&password={}&return_to=%2F", setup::PASSWORD);
    let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
    let answer = target.say("POST", "/auth/login", headers, &form).await?;
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie: __host-mlflow-session="));
    let line = line.with_context(|| format!("no session in the answer: {answer}"))?;
    let (_, cookie) = line.split_once(": ").context("a header has a value")?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

fn bearer(issuer: &str, id: &str) -> String {
    let now = Clock::default().now().0 / 1000;
    let claims = json!({
        "iss": issuer, "aud": "mlflow", "sub": "bench", "azp": "bench", "typ": "Bearer", "jti": id,
        "iat": now, "exp": now + 3600, "email": "bench@example.com", "email_verified": true, "groups": ["/ml/bench"],
    });
    format!("Bearer {}", RSA.token("RS256", &claims))
}

/// Lets the JWT's owner, who is made by their first request, read experiment 1.
async fn grant(target: &Target, jwt: &Target) -> anyhow::Result<()> {
    let answer = jwt.say("GET", "/auth/api/v1/me", "", "").await?;
    anyhow::ensure!(answer.contains("bench@example.com"), "the JWT was not taken: {answer}");
    let wanted = json!({
        "username": "bench@example.com", "resource_type": "experiment", "resource_id": "1", "permission": "READ",
    });
    let admin = setup::basic("admin", setup::ADMIN_PASSWORD);
    setup::call(target, &admin, "/api/3.0/mlflow/users/permissions/grant", &wanted).await?;
    Ok(())
}

impl Measured {
    /// Whether every goal was met.
    pub(crate) fn print(&self) -> bool {
        let median = |slots: &[f64]| {
            let mut sorted = slots.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or_default()
        };
        let token = median(&self.token);
        println!("\nkinds of credential: CPU us per request, and the ratio to an access token's");
        println!("  warm access token            {token:>8.1}");
        let mut all_met = true;
        for (name, slots) in [("warm session", &self.session), ("warm JWT", &self.jwt)] {
            let ratio = median(slots) / token;
            all_met &= ratio <= GOAL;
            let verdict = if ratio <= GOAL { "met" } else { "MISSED" };
            println!("  {name:<28} {:>8.1}   {ratio:.2}x   <= {GOAL}x  {verdict}", median(slots));
        }
        let differences: Vec<_> = self.unseen.iter().zip(&self.seen).map(|(first, second)| first - second).collect();
        let more = median(&differences);
        all_met &= more <= UNSEEN_GOAL_US;
        let verdict = if more <= UNSEEN_GOAL_US { "met" } else { "MISSED" };
        println!("  JWT (RS256), the first time  {:>8.1}", median(&self.unseen));
        println!("    the same, a second time    {:>8.1}", median(&self.seen));
        println!("    what the first costs more  {more:>+8.1}           <= {UNSEEN_GOAL_US} us  {verdict}");
        all_met
    }
}
