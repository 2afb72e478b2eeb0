//! What a front is asked by commands, as it travels: JSON objects, read strictly.
//!
//! Times are milliseconds. A user is named by a login, an address, or with `as_account` by the account's own name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request that one path answers.
pub trait Question: Clone + Serialize {
    /// That path.
    const PATH: &'static str;

    /// The same to a process that was replaced, once the one in its place has given this answer.
    #[must_use]
    fn after(&self, _answer: &Value) -> Self {
        self.clone()
    }
}

macro_rules! question {
    ($type:ident, $path:expr) => {
        impl Question for $type {
            const PATH: &'static str = $path;
        }
    };
}

/// One about a user: the answer has the account's name, so nobody looks it up again, who might find another one or none.
macro_rules! question_of_an_account {
    ($type:ident, $path:expr, |$after:ident, $account:ident| $name:expr) => {
        impl Question for $type {
            const PATH: &'static str = $path;

            fn after(&self, answer: &Value) -> Self {
                let mut $after = self.clone();
                if let Some(account) = answer.get("account").and_then(Value::as_str) {
                    let $account = account.to_owned();
                    $name;
                }
                $after
            }
        }
    };
}

/// Which sessions; what is not said does not matter.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Which {
    /// Of this user.
    pub user: Option<String>,
    /// How the user is named.
    pub as_account: bool,
    /// At this node.
    pub node: Option<String>,
    /// Of clients in this network: CIDR, or one address.
    pub network: Option<String>,
    /// By this protocol.
    pub protocol: Option<String>,
}

/// Who is on: one page.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Who {
    /// Those.
    pub which: Which,
    /// Where the page begins: 0, or what the page before said.
    pub from: usize,
}

/// End sessions.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kick {
    /// Those.
    pub which: Which,
    /// All sessions are meant if nothing else is said; else that is a mistake.
    pub all: bool,
    /// Within so long; none: at a pace that spares whoever they come back to.
    pub within_ms: Option<u64>,
}

/// Let an account in no more for now.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hold {
    /// Whose.
    pub user: String,
    /// How the user is named.
    pub as_account: bool,
    /// Its sessions go on.
    pub keep_sessions: bool,
}

/// Let it in again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Release {
    /// Whose.
    pub user: String,
    /// How the user is named.
    pub as_account: bool,
}

/// Have no more to do with a node, or be asked by balancers no more.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// That node; none: the front itself.
    pub node: Option<String>,
    /// End the sessions within so long; none: they go on.
    pub within_ms: Option<u64>,
}

/// Take that back.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Undrain {
    /// That node; none: the front itself.
    pub node: Option<String>,
}

/// Forget what the directory said.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flush {
    /// Of this login, address or account; none: of all.
    pub name: Option<String>,
}

/// What was ordered and not taken back.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct InForce {}

/// Whom `/cached` is asked about.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whom {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
}

question!(Drain, "/drain");
question!(Flush, "/flush");
question_of_an_account!(Hold, "/hold", |after, account| {
    after.user = account;
    after.as_account = true;
});
question!(InForce, "/orders");
question_of_an_account!(Kick, "/kick", |after, account| {
    after.which.user = Some(account);
    after.which.as_account = true;
});
question_of_an_account!(Release, "/release", |after, account| {
    after.user = account;
    after.as_account = true;
});
question!(Undrain, "/undrain");
question_of_an_account!(Who, "/who", |after, account| {
    after.which.user = Some(account);
    after.which.as_account = true;
});
question!(Whom, "/cached");

impl Which {
    /// Whether all sessions are meant.
    pub fn is_everybody(&self) -> bool {
        *self
            == Self {
                as_account: self.as_account,
                ..Self::default()
            }
    }
}
