//! Commands that need no running gateway: they read objects and answer from the compiled tables.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use sluice_core::tables::record::FrontendKey;
use sluice_policy::compile::Compiled;
use sluice_policy::config::{self, Gateway, OPTIONS, Options};
use sluice_policy::decode::Problems;
use sluice_policy::lint::lint;
use sluice_policy::objects::{self, Objects};
use sluice_policy::schema;
use sluice_policy::tree::Limits;
use sluice_policy::verdict::{Judge, differences, recorded, told_names, with_stand_ins};

use crate::Answer;
use crate::args::{Check, Diff, Dump, Explain, Model, Verdict};
use crate::output::{self, Form};

/// A configuration file, or its mistakes as an error.
pub fn gateway(path: &Path) -> Result<Gateway> {
    match config::load(path) {
        (Some(gateway), _) => Ok(gateway),
        (None, problems) => bail!("{}", problems.to_string().trim_end()),
    }
}

/// What the flags and the configuration say that objects mean.
pub fn options(model: &Model) -> Result<Options> {
    let mut options =
        model.config.as_deref().map(gateway).transpose()?.map_or_else(Options::default, |g| g.options);
    if let Some(node) = &model.node {
        options.node.clone_from(node);
    }
    if let Some(cluster) = &model.cluster_name {
        options.cluster.clone_from(cluster);
    }
    if model.audit {
        options.audit = true;
    }
    let flags = [
        ("enable-policy", &model.enforcement),
        ("tofqdns-min-ttl", &model.tofqdns_min_ttl),
        ("allow-localhost", &model.allow_localhost),
        ("policy-cidr-match-mode", &model.policy_cidr_match_mode),
        ("bpf-lb-algorithm", &model.bpf_lb_algorithm),
        ("bpf-lb-maglev-table-size", &model.bpf_lb_maglev_table_size),
        ("bpf-lb-mode", &model.bpf_lb_mode),
        ("service-no-backend-response", &model.service_no_backend_response),
    ];
    for (name, value) in flags {
        if let Some(value) = value {
            options.set(name, value).map_err(anyhow::Error::msg)?;
        }
    }
    options.external_clusterip |= model.bpf_lb_external_clusterip;
    options.source_range_all_types |= model.bpf_lb_source_range_all_types;
    for option in &model.options {
        let (name, value) = option.split_once('=').with_context(|| format!("{option} is not NAME=VALUE"))?;
        options.set(name, value).map_err(anyhow::Error::msg)?;
    }
    Ok(options)
}

/// What these files and folders hold; `-` alone is what comes in. It is an error that they are not there.
fn load(paths: &[PathBuf], limits: &Limits) -> Result<(Objects, Problems)> {
    if paths == [Path::new("-")] {
        let mut text = String::new();
        std::io::stdin().take(limits.file_bytes + 1).read_to_string(&mut text).context("cannot read")?;
        if text.len() as u64 > limits.file_bytes {
            bail!("more than the limit of {} bytes (limits.fileBytes)", limits.file_bytes);
        }
        return Ok(objects::parse("-", &text, limits));
    }
    for path in paths {
        path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(objects::load(paths, limits))
}

/// Objects, compiled. Mistakes in them are an error that lists all.
pub fn compiled(paths: &[PathBuf], options: Options) -> Result<Compiled> {
    let (objects, problems) = load(paths, &options.limits)?;
    if !problems.is_ok() {
        bail!("the objects are not valid\n{}", problems.to_string().trim_end());
    }
    Ok(Compiled::new(objects, options, problems))
}

fn judge(paths: &[PathBuf], model: &Model) -> Result<Judge> {
    Judge::new(compiled(paths, options(model)?)?).map_err(anyhow::Error::msg)
}

pub fn check(args: &Check) -> Result<Answer> {
    let options = options(&args.model)?;
    let (objects, problems) = load(&args.paths, &options.limits)?;
    let errors = problems.errors.clone();
    let warnings = match problems.is_ok() {
        true => {
            let compiled = Compiled::new(objects, options, problems);
            let mut warnings = lint(&compiled);
            warnings.extend(compiled.warnings);
            warnings.sort();
            warnings
        }
        false => problems.warnings,
    };
    let bad = !errors.is_empty() || (args.strict && !warnings.is_empty());
    match args.output {
        Form::Json | Form::Yaml => {
            let show = |severity: &str, problem: &sluice_policy::decode::Problem| {
                json!({"severity": severity, "file": &*problem.file, "line": problem.line, "column": problem.column,
                    "field": problem.field, "what": problem.what})
            };
            let list: Vec<Value> = errors
                .iter()
                .map(|p| show("error", p))
                .chain(warnings.iter().map(|p| show("warning", p)))
                .collect();
            output::data(args.output, &json!({"valid": errors.is_empty(), "problems": list}))?;
        }
        Form::Table => {
            for problem in &errors {
                output::line(&format!("{problem}\n"))?;
            }
            for problem in &warnings {
                output::line(&format!("{problem} (warning)\n"))?;
            }
        }
    }
    Ok(if bad { Answer::No } else { Answer::Yes })
}

pub fn verdict(args: &Verdict) -> Result<Answer> {
    let mut judge = judge(&args.objects.paths, &args.objects.model)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut answer = Answer::Yes;
    let mut text = String::new();
    for line in lines(&args.flows)? {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        text.clear();
        if !judge.line_to(&line, &mut text) {
            answer = Answer::Partly;
        }
        if !text.is_empty() {
            text.push('\n');
            written(out.write_all(text.as_bytes()))?;
        }
    }
    written(out.flush())?;
    Ok(answer)
}

/// Lines of text; what is none in a line makes that line wrong, and no other.
fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>>> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(BufReader::new(source).split(b'\n').map(move |line| line.map(text)))
}

/// A reader that went away (`| head`) is no error of ours.
fn written(done: std::io::Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}

pub fn explain(args: &Explain) -> Result<Answer> {
    let mut judge = judge(&args.objects.paths, &args.objects.model)?;
    let mut question: Map<String, Value> = match &args.with {
        Some(text) => serde_json::from_str(text).context("--with is no JSON object")?,
        None => Map::new(),
    };
    let flags = [
        ("from", Some(json!(args.from))),
        ("to", Some(json!(args.to))),
        ("proto", args.proto.as_ref().map(|proto| json!(proto))),
        ("port", args.port.map(|port| json!(port))),
        ("icmp_type", args.icmp_type.map(|kind| json!(kind))),
    ];
    for (name, value) in flags {
        if let Some(value) = value
            && question.insert(name.to_owned(), value).is_some()
        {
            bail!("{name} is said both by its flag and in --with");
        }
    }
    let question = Value::Object(question);
    let (text, answer) = judge.explain(&question).map_err(anyhow::Error::msg)?;
    match args.output {
        Form::Json | Form::Yaml => output::data(args.output, &answer)?,
        Form::Table => output::line(&text)?,
    }
    Ok(if answer["verdict"] == "DROPPED" { Answer::No } else { Answer::Yes })
}

/// Differences that are worth listing.
const MOST_DIFFERENCES: usize = 1000;

pub fn diff(args: &Diff) -> Result<Answer> {
    let options = options(&args.model)?;
    let before = compiled(std::slice::from_ref(&args.old), options.clone())?;
    // What stays keeps its numbers, so that only what differs is to be compared.
    let mut after = before.clone();
    let (objects, problems) = load(std::slice::from_ref(&args.new), &options.limits)?;
    if !problems.is_ok() {
        bail!("the objects are not valid\n{}", problems.to_string().trim_end());
    }
    after.update(objects, problems);
    let mut old = Judge::new(before).map_err(anyhow::Error::msg)?;
    let mut new = Judge::new(after).map_err(anyhow::Error::msg)?;
    let mut changed = Vec::new();
    let mut complete = true;
    let mut unread = Vec::new();
    if let Some(flows) = &args.flows {
        for (number, line) in lines(flows)?.enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let done = match serde_json::from_str(&line) {
                Ok(flow) => by_both(&mut old, &mut new, &flow, &mut changed),
                Err(error) => Err(error.to_string()),
            };
            unread.extend(done.err().map(|what| format!("{}:{}: {what}", flows.display(), number + 1)));
        }
    } else {
        let found = differences(&old, &new, MOST_DIFFERENCES);
        complete = found.complete;
        for question in found.questions {
            compare(&mut old, &mut new, question, &mut changed).map_err(anyhow::Error::msg)?;
        }
    }
    match args.output {
        Form::Json | Form::Yaml => output::data(args.output, &json!(changed))?,
        Form::Table => {
            for one in &changed {
                output::line(&difference(one, &new))?;
            }
            if !complete {
                output::line(&format!("and more: only the first {MOST_DIFFERENCES} are listed\n"))?;
            }
        }
    }
    if let Some(first) = unread.first() {
        bail!("{} recorded flows cannot be judged by either set; the first is {first}", unread.len());
    }
    Ok(if changed.is_empty() { Answer::Yes } else { Answer::No })
}

/// What was recorded in one line; names that it tells of are known to both from then on.
fn by_both(old: &mut Judge, new: &mut Judge, line: &Value, changed: &mut Vec<Value>) -> Result<(), String> {
    for name in told_names(line) {
        let text = name.to_string();
        [&mut *old, &mut *new]
            .into_iter()
            .try_for_each(|judge| judge.line(&text).map(drop))
            .map_err(|answer| answer["error"].as_str().unwrap_or_default().to_owned())?;
    }
    let Some(question) = recorded(line) else { return Ok(()) };
    let question = with_stand_ins([&*old, &*new], line, question);
    compare(old, new, question, changed)
}

/// `Err`: neither of them understands the question.
fn compare(
    old: &mut Judge,
    new: &mut Judge,
    question: Value,
    changed: &mut Vec<Value>,
) -> Result<(), String> {
    let line = question.to_string();
    // A line that teaches a name has no answer.
    let (Some(before), Some(after)) = (answer(old, &line), answer(new, &line)) else { return Ok(()) };
    if before["verdict"] != after["verdict"]
        || before["drop_reason"] != after["drop_reason"]
        || before.get("error") != after.get("error")
    {
        changed.push(json!({"flow": question, "old": before, "new": after}));
    } else if let Some(error) = before.get("error").and_then(Value::as_str) {
        return Err(error.to_owned());
    }
    Ok(())
}

/// `shop/web -> shop/db TCP 5432: FORWARDED becomes DROPPED (default deny of shop/p)`.
fn difference(one: &Value, judge: &Judge) -> String {
    let (flow, old, new) = (&one["flow"], &one["old"], &one["new"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let verdict = |answer: &Value| match answer.get("error") {
        Some(error) => text(error),
        None => text(&answer["verdict"]),
    };
    let port = if flow["port"].is_null() { &flow["icmp_type"] } else { &flow["port"] };
    let mut names: Vec<String> = Vec::new();
    for part in [&new["egress"], &new["ingress"]].into_iter().filter(|part| part["verdict"] == new["verdict"])
    {
        for (list, prefix) in [("rules", ""), ("enforced_by", "default deny of ")] {
            for rule in part[list].as_array().into_iter().flatten() {
                let whole = format!("{}/{}", text(&rule["namespace"]), text(&rule["name"]));
                names.push(format!("{prefix}{}", whole.trim_start_matches('/')));
            }
            if !names.is_empty() {
                break;
            }
        }
    }
    names.dedup();
    let why = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let proto = match (flow["proto"].as_str(), flow["proto"].as_u64()) {
        (Some(name), _) if name.parse::<u8>().is_err() => format!("{name} {port}"),
        (Some(number), _) => format!("protocol {number}"),
        (None, Some(number)) => format!("protocol {number}"),
        (None, None) => format!("TCP {port}"),
    };
    format!(
        "{} -> {} {proto}: {} becomes {}{why}\n",
        who(judge, &text(&flow["from"])),
        who(judge, &text(&flow["to"])),
        verdict(old),
        verdict(new)
    )
}

/// An address with the name of whoever has it.
fn who(judge: &Judge, text: &str) -> String {
    let owner = text.parse().ok().and_then(|ip| judge.compiled.engine.owner(ip));
    owner.map_or_else(|| text.to_owned(), |(_, name)| format!("{name} ({text})"))
}

fn answer(judge: &mut Judge, line: &str) -> Option<Value> {
    judge.line(line).unwrap_or_else(Some)
}

pub fn dump(args: &Dump) -> Result<()> {
    let judge = judge(&args.objects.paths, &args.objects.model)?;
    let Some(frontend) = &args.maglev else { return output::json(&judge.compiled.dump()) };
    let wrong = || format!("{frontend} is not like 192.0.2.1:80/TCP");
    let (socket, proto) = frontend.split_once('/').with_context(wrong)?;
    let socket: SocketAddr = socket.parse().with_context(wrong)?;
    let proto = objects::protocol(proto).with_context(wrong)?;
    let key = FrontendKey { ip: socket.ip(), port: socket.port(), proto };
    let services = &judge.tables().services;
    let service = services.frontend(key).and_then(|frontend| services.service(frontend.service?));
    let service = service.with_context(|| format!("there is no frontend {frontend}"))?;
    let row: Vec<String> = service.row().map(|b| SocketAddr::new(b.ip, b.port).to_string()).collect();
    if row.is_empty() {
        bail!("{frontend} has no Maglev row (another algorithm, or no usable backend)");
    }
    output::line(&format!("{}\n", serde_json::to_string(&row)?))
}

/// What the dataplane is told, and the file that it is told by.
pub fn dataplane_settings(config: &Path) -> Result<(String, PathBuf)> {
    let gateway = gateway(config)?;
    let file = gateway.dataplane.socket.with_file_name("dataplane.json");
    Ok((serde_json::to_string_pretty(&gateway.dataplane)?, file))
}

pub fn config_dataplane(file: &Path) -> Result<()> {
    output::line(&format!("{}\n", dataplane_settings(file)?.0))
}

pub fn config_show(file: &Path) -> Result<()> {
    output::json(&config::show(&gateway(file)?))
}

pub fn config_options() -> Result<()> {
    let defaults = Options::default();
    OPTIONS.iter().try_for_each(|(name, what)| {
        let default = defaults.get(name).unwrap_or_else(|| "nothing".to_owned());
        output::line(&format!("{name:40} {what} [{default}]\n"))
    })
}

/// With every option under either section, where it may stand.
fn gateway_schema() -> Result<Value> {
    let mut schema: Value = serde_json::from_str(include_str!("gateway.schema.json"))?;
    for section in ["policy", "services"] {
        let section = &mut schema["properties"]["spec"]["properties"][section];
        section["additionalProperties"] = json!(false);
        for (name, what) in OPTIONS {
            section["properties"][name] =
                json!({"type": ["string", "boolean", "number", "null"], "description": what});
        }
    }
    Ok(schema)
}

pub fn config_schema(kind: Option<&str>) -> Result<()> {
    let Some(kind) = kind else { return output::json(&gateway_schema()?) };
    let known = schema::KINDS.join(", ");
    let schema = schema::of(kind).with_context(|| format!("there is no schema of {kind}, but of {known}"))?;
    output::json(&schema)
}
