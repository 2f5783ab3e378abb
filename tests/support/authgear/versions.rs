//! Versions of Authgear, and the kinds of clients that they treat differently.

/// Version of Authgear's contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `2026-08`: the resolver accepts user tokens of every client, for its own audience only.
    #[default]
    August2026,
    /// `2026-11`: the resolver refuses tokens of third-party clients and does not look at `aud`.
    November2026,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::August2026, Self::November2026];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::August2026 => "2026-08",
            Self::November2026 => "2026-11",
        }
    }

    /// Whether the resolver compares `aud` with its own origin.
    pub(crate) const fn checks_audience(self) -> bool {
        matches!(self, Self::August2026)
    }

    /// Whether the resolver answers `false` to tokens of this client.
    pub(crate) const fn refuses(self, client: ClientKind) -> bool {
        let third_party = matches!(client, ClientKind::ThirdParty | ClientKind::Dynamic);
        matches!(self, Self::November2026) && third_party
    }
}

/// Kind of the OAuth client that holds a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientKind {
    #[default]
    FirstParty,
    /// A static client of type `third_party_app`.
    ThirdParty,
    /// A client that registered itself, `dcrc_...`.
    Dynamic,
    /// Client credentials. It has no user.
    Machine,
}

impl ClientKind {
    pub const ALL: [Self; 4] = [Self::FirstParty, Self::ThirdParty, Self::Dynamic, Self::Machine];

    /// The id of the fake's client of this kind.
    pub const fn client_id(self) -> &'static str {
        match self {
            Self::FirstParty | Self::Machine => super::token::CLIENT,
            Self::ThirdParty => "third",
            Self::Dynamic => "dcrc_EbfpFwcSbzrF0YfLtJfyoh",
        }
    }
}
