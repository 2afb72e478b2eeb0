//! The `pigeonair` program: runs a command and turns what came of it into an exit code.
//!
//! The codes are those of `sysexits.h`, so that service managers know what to do: 64 and 78 need a person (no restart
//! helps), 70 to 73 may pass. To MTAs that run `deliver`, 75 means "try again"; 71, 73 and 74 do to some and not to others, so
//! they are not used there; all else returns the message to its sender.

use std::{io::ErrorKind, process::ExitCode};

use pigeonair::{
    admin::{AskError, StatusError},
    app::{AppError, TakeError},
    cli::{self, Failed, NotDelivered, NotUpgraded, Unasked},
    proto::lmtp::Reply,
};

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => ExitCode::from(exit_code(&failed)),
    }
}

/// Every way to fail has a code here and nowhere else.
fn exit_code(failed: &Failed) -> u8 {
    const USAGE: u8 = 64;
    const NOUSER: u8 = 67;
    const UNAVAILABLE: u8 = 69;
    const SOFTWARE: u8 = 70;
    const OS: u8 = 71;
    const CANTCREAT: u8 = 73;
    const TEMPFAIL: u8 = 75;
    const CONFIG: u8 = 78;
    match failed {
        Failed::Ask(error) | Failed::Replaced { source: error, .. } => ask_code(error),
        Failed::CommandLine(_) => USAGE,
        Failed::Configuration(_)
        | Failed::NoSocket(_)
        | Failed::NotTaken(_)
        | Failed::NowhereToAsk(_)
        | Failed::Reload {
            source: Unasked::NoSocket(_),
            ..
        } => CONFIG,
        Failed::Reload {
            source: Unasked::Silent(error),
            ..
        } => ask_code(error),
        Failed::Deliver(NotDelivered::Refused(reply)) => refusal_code(reply),
        Failed::Deliver(_) => TEMPFAIL,
        Failed::Nobody(_) | Failed::NoSession => NOUSER,
        Failed::Status(error) => status_code(error),
        Failed::NotReady(_) | Failed::Online | Failed::Unexplained => UNAVAILABLE,
        Failed::Output { .. } => CANTCREAT,
        Failed::Random(_) => OS,
        Failed::Log(_) => SOFTWARE,
        // What the new process ended with.
        Failed::Upgrade(NotUpgraded::Ended {
            code: Some(code), ..
        }) => *code,
        Failed::Upgrade(NotUpgraded::Start(_)) => OS,
        Failed::Upgrade(NotUpgraded::Nobody(error)) => take_code(error),
        Failed::Upgrade(_) => UNAVAILABLE,
        Failed::App(error) => match error {
            AppError::Metrics(_) | AppError::Link(_) => SOFTWARE,
            AppError::Bind { .. }
            | AppError::Rights(_)
            | AppError::Runtime(_)
            | AppError::Sandbox(_)
            | AppError::User { .. } => OS,
            AppError::TakeOver(error) => take_code(error),
            AppError::NotReady(_) => UNAVAILABLE,
            AppError::Directory(_)
            | AppError::Handover(_)
            | AppError::Inherited(_)
            | AppError::Mailstore(_)
            | AppError::Orders(_)
            | AppError::Policy(_)
            | AppError::Role(_)
            | AppError::Tls(_)
            | AppError::Unwanted(_) => CONFIG,
        },
    }
}

/// A front that was asked and did not: who asks may not, there is nobody of that name, or it cannot now.
fn ask_code(error: &AskError) -> u8 {
    const USAGE: u8 = 64;
    const NOUSER: u8 = 67;
    const UNAVAILABLE: u8 = 69;
    const NOPERM: u8 = 77;
    match error {
        AskError::Failed { source, .. } if source.kind() == ErrorKind::PermissionDenied => NOPERM,
        AskError::Failed { .. } | AskError::Stranger { .. } => UNAVAILABLE,
        AskError::Refused { status: 403, .. } => NOPERM,
        AskError::Refused { status: 404, .. } => NOUSER,
        // What the command line could not know to be wrong.
        AskError::Refused {
            status: 400 | 413, ..
        } => USAGE,
        AskError::Refused { .. } => UNAVAILABLE,
    }
}

/// A process that does not say what it does: who asks may not, or it does not answer.
fn status_code(error: &StatusError) -> u8 {
    const UNAVAILABLE: u8 = 69;
    const NOPERM: u8 = 77;
    match error {
        StatusError::Failed { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            NOPERM
        }
        _ => UNAVAILABLE,
    }
}

/// Nobody is there whose place could be taken, or it does not let go of it.
fn take_code(error: &TakeError) -> u8 {
    const UNAVAILABLE: u8 = 69;
    const CONFIG: u8 = 78;
    match error {
        TakeError::NoSocket => CONFIG,
        _ => UNAVAILABLE,
    }
}

/// A refusal for good: of whom the message is for, of the message as it is, of who sends it, or of anything else.
fn refusal_code(reply: &Reply) -> u8 {
    const DATAERR: u8 = 65;
    const NOUSER: u8 = 67;
    const UNAVAILABLE: u8 = 69;
    const NOPERM: u8 = 77;
    match reply.enhanced() {
        (_, 1, 1) => NOUSER,
        (_, 3, 4) | (_, 4, 6) | (_, 6, _) => DATAERR,
        (_, 7, _) => NOPERM,
        _ => UNAVAILABLE,
    }
}
