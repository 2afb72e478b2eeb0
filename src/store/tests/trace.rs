//! Reading what `strace -f -y` wrote: which system call ended before which began.
//!
//! ```text
//! 812   fsync(7</srv/ann/Maildir/tmp/1.M2P3Q4.n1> <unfinished ...>     began on this line
//! 815   write(1<pipe:[9]>, "x", 1) = 1
//! 812   <... fsync resumed>)              = 0                           ended on this one
//! ```
//!
//! It needs the arguments to be short or cut by strace, and knows no call's meaning.

/// One system call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// As strace prints them, descriptors with their paths.
    pub(crate) arguments: String,
    pub(crate) result: String,
    /// The lines on which it began and ended.
    pub(crate) began: usize,
    pub(crate) ended: usize,
    thread: String,
}

/// All calls, in the order in which they began.
pub(crate) fn read(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, line)) = line.split_once(' ') else {
            continue;
        };
        let line = line.trim_start();
        if let Some(resumed) = line.strip_prefix("<... ") {
            let open = |call: &&mut Call| call.thread == thread && call.ended == usize::MAX;
            let Some(call) = calls.iter_mut().rev().find(open) else {
                continue;
            };
            let (_, rest) = resumed.split_once("resumed>").unwrap_or_default();
            call.arguments += rest;
            call.ended = number;
            finish(call);
        } else if let Some((name, rest)) = line.split_once('(') {
            let unfinished = rest.strip_suffix("<unfinished ...>");
            let mut call = Call {
                name: name.to_owned(),
                arguments: unfinished.unwrap_or(rest).to_owned(),
                result: String::new(),
                began: number,
                ended: usize::MAX,
                thread: thread.to_owned(),
            };
            if unfinished.is_none() {
                call.ended = number;
                finish(&mut call);
            }
            calls.push(call);
        }
    }
    calls
}

/// Takes the result off the arguments.
fn finish(call: &mut Call) {
    let text = std::mem::take(&mut call.arguments);
    let (arguments, result) = text.rsplit_once(" = ").unwrap_or((&text, ""));
    call.result = result.to_owned();
    call.arguments = arguments
        .trim_end()
        .trim_end_matches(')')
        .trim_end()
        .to_owned();
}

/// The only call of that name whose arguments hold all these words and that did not fail.
pub(crate) fn one<'a>(calls: &'a [Call], name: &str, words: &[&str]) -> &'a Call {
    let fits = |call: &&Call| {
        call.name == name
            && !call.result.starts_with('-')
            && words.iter().all(|word| call.arguments.contains(word))
    };
    let found: Vec<_> = calls.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} {words:?}: {found:?} of {calls:#?}");
    found[0]
}

/// Each ended before the next began.
pub(crate) fn assert_in_order(calls: &[&Call]) {
    for pair in calls.windows(2) {
        assert!(pair[0].ended < pair[1].began, "{pair:#?}");
    }
}

#[test]
fn calls_that_other_threads_interrupt_are_put_together() {
    let calls = read(concat!(
        "812   fsync(7</srv/tmp/1.M2> <unfinished ...>\n",
        "815   write(1<pipe:[9]>, \"x = (1)\", 7) = 7\n",
        "812   <... fsync resumed>)              = 0\n",
        "812   fsync(7</srv/new>) = -1 EIO (Input/output error)\n",
        "812   +++ exited with 0 +++\n",
    ));
    assert_eq!(calls.len(), 3);
    assert_eq!((calls[0].began, calls[0].ended), (0, 2));
    assert_eq!((calls[1].began, calls[1].ended), (1, 1));
    assert_eq!(calls[0].result, "0");
    assert_eq!(calls[0].arguments, "7</srv/tmp/1.M2>");
    assert_eq!(one(&calls, "write", &["x = (1)"]).result, "7");
    assert!(calls[2].result.starts_with("-1 EIO"));
}
