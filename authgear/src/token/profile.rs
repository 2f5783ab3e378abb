//! Requirements for tokens.

use super::algorithm::Algorithm;

/// Requirements for tokens of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Exact value of `iss`: the project's public origin.
    pub issuer: String,
    /// Accepted audiences. `aud` must be or contain one of these, compared byte by byte.
    pub audiences: Vec<String>,
    /// Accepted values of `alg`.
    pub algorithms: Vec<Algorithm>,
    /// Tolerated difference to the issuer's clock, in seconds.
    pub leeway: u64,
    /// Whether tokens of machines (client credentials grant) are accepted.
    pub machine_tokens: bool,
}
