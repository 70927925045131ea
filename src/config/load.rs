use super::Config;

#[derive(Clone, Debug, Default)]
pub struct Flags {}
#[derive(Clone, Debug)]
pub struct Problem {
    pub key: String,
    pub message: String,
}
#[derive(Clone, Debug)]
pub struct Problems(pub Vec<Problem>);

#[expect(clippy::todo, clippy::missing_errors_doc, reason = "signatures first")]
pub fn load(_flags: &Flags) -> Result<Config, Problems> {
    todo!()
}
