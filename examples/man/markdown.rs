//! From the Markdown of the manual to the language of manual pages.
//!
//! It knows what `docs/manual.md` has and no more: paragraphs, lists of one level, tables, blocks of text in backquotes, and
//! within a line code, bold text and links, of which the words stay. A row of a table becomes a paragraph behind its first
//! cell; the others follow it, from the third on with what stands above them.

use clap_mangen::roff::{Inline, Roff, bold, line_break, roman};

/// What stands below a heading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chapter<'a> {
    /// How deep it lies: the number of `#`.
    depth: usize,
    pub(crate) title: &'a str,
    /// Up to the next heading of any depth.
    pub(crate) text: &'a str,
    /// What follows that.
    rest: &'a str,
}

impl<'a> Chapter<'a> {
    /// The chapters within it.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        chapters(self.rest).take_while(move |part| part.depth > self.depth)
    }
}

/// All chapters, in order.
pub(crate) fn chapters(text: &str) -> impl Iterator<Item = Chapter<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, start) = up_to_heading(rest);
        let (heading, below) = start.split_once('\n')?;
        let title = heading.trim_start_matches('#');
        let (text, after) = up_to_heading(below);
        rest = after;
        Some(Chapter {
            depth: heading.len() - title.len(),
            title: title.trim(),
            text,
            rest: after,
        })
    })
}

/// What stands above the first heading, and the rest. In blocks of text `#` begins a comment.
fn up_to_heading(text: &str) -> (&str, &str) {
    let (mut at, mut is_block) = (0, false);
    for line in text.split_inclusive('\n') {
        is_block ^= line.starts_with("```");
        if line.starts_with('#') && !is_block {
            break;
        }
        at += line.len();
    }
    text.split_at(at)
}

/// Writes the text of a chapter, directly below its heading.
pub(crate) fn write(roff: &mut Roff, text: &str) {
    let mut lines = text.lines().peekable();
    let mut is_first = true;
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        if line.starts_with("```") {
            let block = lines.by_ref().take_while(|line| !line.starts_with("```"));
            write_block(roff, block);
            is_first = false;
            continue;
        }
        let is_table = line.starts_with('|');
        let goes_on = |next: &&str| match next.chars().next() {
            None | Some('`') if next.is_empty() || next.starts_with("```") => false,
            Some('-') if next.starts_with("- ") => false,
            first => (first == Some('|')) == is_table,
        };
        let mut paragraph = vec![line];
        while let Some(next) = lines.next_if(goes_on) {
            paragraph.push(next);
        }
        if is_table {
            write_table(roff, &paragraph);
            is_first = false;
            continue;
        }
        let words = paragraph.iter().map(|line| line.trim());
        let words = words.collect::<Vec<_>>().join(" ");
        match words.strip_prefix("- ") {
            Some(words) => {
                roff.control("IP", ["\\(bu", "2"]);
                roff.text(inlines(words));
            }
            None => {
                if !is_first {
                    roff.control("PP", []);
                }
                roff.text(inlines(&words));
            }
        }
        is_first = false;
    }
}

fn write_block<'a>(roff: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    roff.control("PP", []);
    roff.control("RS", ["4"]);
    roff.control("EX", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("EE", []);
    roff.control("RE", []);
}

fn write_table(roff: &mut Roff, rows: &[&str]) {
    let [heads, _, rows @ ..] = rows else {
        return;
    };
    let heads = cells(heads);
    // Where nothing stands above the first column, its cells are subjects of all others alike.
    let named_from = if heads.first().is_some_and(String::is_empty) {
        1
    } else {
        2
    };
    for row in rows {
        let cells = cells(row);
        roff.control("TP", []);
        // Tables that are not of keys say so in each row.
        let tag = cells.first().map_or("", String::as_str);
        roff.text(inlines(tag.rsplit_once(": ").map_or(tag, |(_, tag)| tag)));
        let mut body = Vec::new();
        for (at, (head, cell)) in heads.iter().zip(&cells).enumerate().skip(1) {
            if cell.is_empty() {
                continue;
            }
            if !body.is_empty() {
                body.push(line_break());
            }
            if at >= named_from {
                body.push(roman(format!("{head}: ")));
            }
            body.extend(inlines(cell));
        }
        roff.text(body);
    }
}

/// The cells of a table's row.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_matches('|').replace("\\|", "\u{0}");
    let cells = row.split('|').map(str::trim);
    cells.map(|cell| cell.replace('\u{0}', "|")).collect()
}

/// Text within a line.
fn inlines(text: &str) -> Vec<Inline> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, from) = rest.split_at(at);
        found.push(roman(before));
        let (inline, after) = first(from);
        found.push(inline);
        rest = after;
    }
    found.push(roman(rest));
    found
}

/// Code, bold text, a link, or a character that is none of them; and what follows.
fn first(text: &str) -> (Inline, &str) {
    let within = |open: &str, close: &str| text.strip_prefix(open)?.split_once(close);
    if let Some((code, after)) = within("`", "`") {
        return (bold(code), after);
    }
    if let Some((words, after)) = within("**", "**") {
        return (bold(words), after);
    }
    if let Some((words, after)) = within("[", "](")
        && let Some((_, after)) = after.split_once(')')
    {
        return (roman(words.replace('`', "")), after);
    }
    let (one, after) = text.split_at(1);
    (roman(one), after)
}
