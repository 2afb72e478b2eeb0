//! `config/prometheus` and `config/grafana`: checked by promtool, compared with the metrics that there are, and used by a real
//! Prometheus that scrapes a live cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    lab::{Cluster, Process, eventually},
    seeing::{busy_cluster, metrics, promtool},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus");
const RULES: &str = include_str!("../../config/prometheus/pigeonair.rules.yml");
const BOARD: &str = include_str!("../../config/grafana/pigeonair.json");
const MANUAL: &str = include_str!("../../docs/manual.md");

/// Labels that Prometheus gives, and those of rules.
const FOREIGN: [&str; 3] = ["instance", "job", "le"];

/// Every metric of the manual, with its labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split('`').next());
    let metrics =
        names.filter(|name| name.starts_with("pigeonair_") || name.starts_with("process_"));
    let split = metrics.map(|metric| {
        let (name, labels) = metric
            .trim_end_matches('}')
            .split_once('{')
            .unwrap_or((metric, ""));
        let labels = labels.split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    });
    let documented: BTreeMap<_, _> = split.collect();
    assert!(documented.len() > 40);
    documented
}

/// The family that a series belongs to.
fn family<'a>(series: &'a str, documented: &BTreeMap<String, BTreeSet<String>>) -> Option<&'a str> {
    let ends = ["", "_bucket", "_count", "_sum"];
    let names = ends.iter().filter_map(|end| series.strip_suffix(end));
    let mut names = names.filter(|name| documented.contains_key(*name));
    names.next()
}

/// The words of an expression that begin so, each with what follows.
fn words<'a>(text: &'a str, begin: &str) -> Vec<(&'a str, &'a str)> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let found = text.match_indices(begin).filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        !before.is_some_and(is_word)
    });
    found
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            rest.split_at(end)
        })
        .collect()
}

/// What is wrong with the metrics and labels that a text asks for.
fn unknown(text: &str, documented: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let all = ["pigeonair_", "process_"];
    for (name, rest) in all.iter().flat_map(|begin| words(text, begin)) {
        let Some(family) = family(name, documented) else {
            wrong.push(name.to_owned());
            continue;
        };
        let Some(selector) = rest.strip_prefix('{') else {
            continue;
        };
        for part in selector.split('}').next().unwrap().split("\",") {
            let label = part.split(['=', '!']).next().unwrap().trim();
            if !FOREIGN.contains(&label) && !documented[family].contains(label) {
                wrong.push(format!("{name}{{{label}}}"));
            }
        }
    }
    wrong
}

/// The expressions of the dashboard, with their times filled in.
fn expressions() -> Vec<String> {
    let board: Value = serde_json::from_str(BOARD).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let found = targets
        .flatten()
        .map(|target| target["expr"].as_str().unwrap());
    let found: Vec<String> = found
        .map(|text| {
            text.replace("$__rate_interval", "5m")
                .replace("$instance", ".*")
        })
        .collect();
    assert!(found.len() > 30 && !found.iter().any(|text| text.contains('$')));
    found
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let documented = documented();
    assert_eq!(unknown(RULES, &documented), [""; 0]);
    assert_eq!(
        unknown(BOARD.replace("\\\"", "\"").as_str(), &documented),
        [""; 0]
    );
    let wrong =
        r#"rate(pigeonair_login_total[5m]) + pigeonair_logins_total{instance="x",resul!="ok"}"#;
    assert_eq!(
        unknown(wrong, &documented),
        ["pigeonair_login_total", "pigeonair_logins_total{resul}"]
    );
    // Sums that are used are made.
    for (sum, _) in words(RULES, "pigeonair:") {
        assert!(RULES.contains(&format!("record: {sum}\n")), "{sum}");
    }
    for (alert, rest) in words(RULES, "PigeonAir") {
        let rule = rest.split("- alert:").next().unwrap();
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(rule.contains(part), "{alert} has no {part}");
        }
        assert!(
            MANUAL.contains(&format!("| `{alert}` |")),
            "{alert} is not in the manual"
        );
    }
}

#[test]
fn rules_do_what_they_should() {
    let [rules, tests] =
        ["pigeonair.rules.yml", "pigeonair.rules.test.yml"].map(|name| format!("{FOLDER}/{name}"));
    promtool(
        &["check", "config", &format!("{FOLDER}/prometheus.yml")],
        "",
    );
    promtool(&["check", "rules", &rules], "");
    promtool(&["test", "rules", &tests], "");
    // Each alert is in a test.
    let tests = fs::read_to_string(tests).unwrap();
    for (alert, _) in words(RULES, "PigeonAir") {
        assert!(tests.contains(alert), "{alert} is not tested");
    }
    let rules: Vec<Value> = expressions()
        .iter()
        .map(|expression| json!({ "record": "panel", "expr": expression }))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("board.yml");
    // JSON is YAML. Rules of the same name are told, and allowed.
    let groups = json!({ "groups": [{ "name": "board", "rules": rules }] });
    fs::write(&file, groups.to_string()).unwrap();
    promtool(
        &["check", "rules", "--lint=none", file.to_str().unwrap()],
        "",
    );
}

/// What is scraped is what the manual says, with those labels.
#[test]
fn a_prometheus_scrapes_a_cluster() {
    let mut cluster = busy_cluster();
    let documented = documented();
    let processes = [
        cluster.front_admin(),
        cluster.node_admin("n1"),
        cluster.node_admin("n2"),
    ];
    for admin in processes {
        for line in metrics(admin).lines().filter(|line| !line.starts_with('#')) {
            let series = line.split(['{', ' ']).next().unwrap();
            let family = family(series, &documented).unwrap_or_else(|| panic!("{line}"));
            let labels = line.split_once('{').map_or("", |(_, labels)| labels);
            let labels: BTreeSet<String> = labels
                .split("\",")
                .filter_map(|label| Some(label.trim_start().split_once("=\"")?.0.to_owned()))
                .filter(|label| label != "le")
                .collect();
            assert_eq!(labels, documented[family], "{line}");
        }
    }
    let (_prometheus, url) = start(&cluster, "1s");
    let ask = |expression: &str| promtool(&["query", "instant", &url, expression], "");
    eventually("all processes are scraped", || {
        ask("count(up{job=~\"pigeonair-.*\"} == 1)").contains("=> 3 @")
    });
    for expression in expressions() {
        ask(&expression);
    }
    eventually("sums are made", || {
        ask("pigeonair:stage_seconds:p95_5m{stage=\"login\"}").contains("=>")
            || ask("count(pigeonair:logins:rate5m)").contains("=>")
    });
    let node = cluster.node_admin("n2");
    cluster.node("n2").acceptor().stop();
    let pending = format!("ALERTS{{alertname=\"PigeonAirNodeProcessDown\",instance=\"{node}\"}}");
    eventually("the node's alert", || {
        ask(&pending).contains("alertstate=\"pending\"")
    });
}

/// A Prometheus with the sample's configuration; where it answers.
fn start(cluster: &Cluster, interval: &str) -> (Process, String) {
    let scratch = cluster.scratch();
    let sample = fs::read_to_string(format!("{FOLDER}/prometheus.yml")).unwrap();
    let mut text = sample.replace("15s", interval);
    assert_ne!(text, sample);
    let nodes = format!(
        "\"{}\", \"{}\"",
        cluster.node_admin("n1"),
        cluster.node_admin("n2")
    );
    for (targets, ours) in [
        (
            "\"front1.example.net:9143\", \"front2.example.net:9143\"",
            format!("\"{}\"", cluster.front_admin()),
        ),
        (
            "\"node1.example.net:9144\", \"node2.example.net:9144\"",
            nodes,
        ),
    ] {
        assert!(text.contains(targets), "{text}");
        text = text.replace(targets, &ours);
    }
    fs::write(scratch.join("prometheus.yml"), text).unwrap();
    fs::write(scratch.join("pigeonair.rules.yml"), RULES).unwrap();
    let shown = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let address = cluster.port(9090);
    let arguments = [
        "prometheus".to_owned(),
        format!("--config.file={}", shown("prometheus.yml")),
        format!("--storage.tsdb.path={}", shown("tsdb")),
        format!("--web.listen-address={address}"),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let logs = Path::new(&shown("x"))
        .parent()
        .unwrap()
        .with_file_name("logs");
    let process = Process::start("prometheus", &logs, &arguments);
    eventually("prometheus answers", || {
        crate::lab::http_status(address, "/-/ready") == Some(200)
    });
    (process, format!("http://{address}"))
}
