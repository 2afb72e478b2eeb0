//! Which pages there are, and what is in each.

use std::{error::Error, io};

use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::markdown::{self, Chapter};

const MANUAL: &str = include_str!("../../docs/manual.md");
/// Debian's, whose last entry says when this version was made.
const CHANGES: &str = include_str!("../../config/debian/changelog");

/// Chapters of the manual about one command, which go into its page.
const ABOUT: [(&str, &str); 2] = [
    ("deliver", "Delivery from a pipe"),
    ("explain", "Who somebody is"),
];

/// All pages: the name of each file, and its text.
pub(crate) fn all() -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let program = pigeonair::cli::command().disable_help_subcommand(true);
    let version = program.get_version().unwrap_or_default().to_owned();
    let date = date()?;
    let mut pages = vec![configuration(&version, &date)?];
    // Commands whose pages are missing, each with the words before it.
    let mut commands = vec![(String::new(), program)];
    while let Some((before, command)) = commands.pop() {
        let words = format!("{before}{}", command.get_name());
        pages.push(page(&command, &words, &version, &date)?);
        for command in command.get_subcommands() {
            if !command.is_hide_set() {
                let command = command.clone().disable_help_subcommand(true);
                commands.push((format!("{words} "), command));
            }
        }
    }
    Ok(pages)
}

/// The page of the program or of one of its commands, which is called by these words.
fn page(
    command: &clap::Command,
    words: &str,
    version: &str,
    date: &str,
) -> Result<(String, String), Box<dyn Error>> {
    let name = words.replace(' ', "-");
    let command = command.clone().display_name(&name).bin_name(words);
    let word = command.get_name().to_owned();
    let has_commands = command.has_subcommands();
    let man = Man::new(command)
        .section("8")
        .date(date)
        .source(format!("pigeonair {version}"))
        .manual("PigeonAir");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    match ABOUT.iter().find(|(command, _)| *command == word) {
        Some((_, title)) => {
            rest.control("SH", ["NOTES"]);
            markdown::write(&mut rest, chapter(title)?.text);
        }
        None => rest.extend([exit_status()?]),
    }
    rest.extend([see_also(&name)]);
    rest.to_writer(&mut text)?;
    Ok((format!("{name}.8"), tidied(&String::from_utf8(text)?)))
}

/// Each part begins with the same preamble, and lists of values with one line break too many.
fn tidied(page: &str) -> String {
    const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";
    let page = page.replace(PREAMBLE, "");
    let page = page
        .replace("\n.br\n\n.br\n", "\n.br\n")
        .replace(" \n", "\n");
    format!("{PREAMBLE}{page}")
}

fn exit_status() -> Result<Roff, Box<dyn Error>> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    markdown::write(&mut roff, chapter("Exit codes")?.text);
    Ok(roff)
}

fn see_also(name: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let pages = [("pigeonair", "8"), ("pigeonair.toml", "5")];
    let mut line = Vec::new();
    for (page, section) in pages.iter().filter(|(page, _)| *page != name) {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(*page), roman(format!("({section})"))]);
    }
    roff.text(line);
    roff.control("PP", []);
    roff.text([roman(
        "/usr/share/doc/pigeonair has the whole manual, and samples of configurations.",
    )]);
    roff
}

/// The page of the configuration file.
fn configuration(version: &str, date: &str) -> Result<(String, String), Box<dyn Error>> {
    let source = format!("pigeonair {version}");
    let mut roff = Roff::new();
    roff.control("TH", ["pigeonair.toml", "5", date, &source, "PigeonAir"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("pigeonair.toml - configuration file of PigeonAir")]);
    roff.control("SH", ["DESCRIPTION"]);
    let chapter = chapter("The configuration file")?;
    markdown::write(&mut roff, chapter.text);
    for part in chapter.parts() {
        roff.control("SH", [part.title.replace('`', "").as_str()]);
        markdown::write(&mut roff, part.text);
    }
    roff.extend([see_also("pigeonair.toml")]);
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    Ok(("pigeonair.toml.5".to_owned(), String::from_utf8(text)?))
}

fn chapter(title: &str) -> Result<Chapter<'static>, io::Error> {
    let found = markdown::chapters(MANUAL).find(|chapter| chapter.title == title);
    found.ok_or_else(|| io::Error::other(format!("docs/manual.md has no chapter {title}")))
}

/// The day of the last entry, as YYYY-MM-DD.
fn date() -> Result<String, Box<dyn Error>> {
    let line = CHANGES.lines().find(|line| line.starts_with(" -- "));
    let date = line.and_then(|line| line.rsplit_once("  "));
    let (_, date) = date.ok_or("config/debian/changelog has no date")?;
    let date = jiff::fmt::rfc2822::parse(date)?;
    Ok(date.date().to_string())
}
