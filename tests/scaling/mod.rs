//! What `runtime/docs/scaling` shows works: the manifests agree with each other and with the pipeline,
//! the pipeline passes its check and its tests, and the binary takes the container's arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Folder, Running, ask, data_folder, millstream, repository};

const PIPELINE: &str = "orders.toml";

fn docs() -> PathBuf {
    repository().join("runtime/docs/scaling")
}

fn text(file: &str) -> String {
    let path = docs().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of one document, as the JSON that it stands for.
fn yaml(file: &str) -> Value {
    let documents = YamlLoader::load_from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(documents.len(), 1, "{file}");
    as_json(&documents[0])
}

fn as_json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(boolean) => (*boolean).into(),
        Yaml::Array(items) => items.iter().map(as_json).collect(),
        Yaml::Hash(entries) => {
            let entry = |(key, value): (&Yaml, &Yaml)| {
                (key.as_str().expect("keys are strings").to_owned(), as_json(value))
            };
            entries.iter().map(entry).collect::<Map<_, _>>().into()
        }
        other => panic!("{other:?} is in no manifest"),
    }
}

/// What `kubectl apply --kustomize` makes, by kind.
fn manifests() -> BTreeMap<String, Value> {
    let listed = yaml("kubernetes/kustomization.yaml");
    let files: BTreeSet<String> = strings(&listed["resources"]).into_iter().collect();
    let folder = std::fs::read_dir(docs().join("kubernetes")).expect("the manifests");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let there = names.filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml");
    assert_eq!(there.collect::<BTreeSet<_>>(), files, "each is listed");
    let read = |file: &String| yaml(&format!("kubernetes/{file}"));
    files.iter().map(read).map(|one| (string(&one["kind"]), one)).collect()
}

#[track_caller]
fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

#[track_caller]
fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(string).collect()
}

/// The element of a list that has this name.
#[track_caller]
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let named = list.as_array().expect("a list").iter().find(|one| one["name"] == name);
    named.unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn toml(text: &str) -> toml::Table {
    text.parse().expect("the pipeline is TOML")
}

/// Mebibytes of a size as Millstream (`64MiB`) or Kubernetes (`64Mi`) writes it.
fn mebibytes(size: &str) -> u64 {
    let number = size.trim_end_matches('B').strip_suffix("Mi").expect("mebibytes");
    number.parse().expect("a number")
}

fn seconds(time: &str) -> i64 {
    time.strip_suffix('s').and_then(|number| number.parse().ok()).expect("seconds")
}

#[test]
fn names_labels_and_ports_agree() {
    let manifests = manifests();
    let set = &manifests["StatefulSet"];
    let name = &set["metadata"]["name"];
    for (kind, manifest) in &manifests {
        assert_eq!(manifest["metadata"]["name"], *name, "{kind}");
    }
    let pod = &set["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    let spread = &pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"];
    for (of, selected) in [
        ("StatefulSet", &set["spec"]["selector"]["matchLabels"]),
        ("Service", &manifests["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", &manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", &manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
        ("topologySpreadConstraints", spread),
    ] {
        assert_eq!(selected, labels, "{of}");
    }
    assert_eq!(set["spec"]["serviceName"], manifests["Service"]["metadata"]["name"]);

    let container = named(&pod["spec"]["containers"], "millstream");
    let port = named(&container["ports"], "admin");
    let number = port["containerPort"].as_u64().expect("a port");
    assert!(strings(&container["args"]).contains(&format!("--admin=0.0.0.0:{number}")), "{container}");
    let scraped = &pod["metadata"]["annotations"]["prometheus.io/port"];
    assert_eq!(string(scraped), number.to_string());
    let service = named(&manifests["Service"]["spec"]["ports"], "admin");
    assert_eq!((&service["port"], &service["targetPort"]), (&port["containerPort"], &json!("admin")));
    let allowed = &manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"];
    assert_eq!(allowed, "admin");

    let target = &manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"];
    for key in ["apiVersion", "kind"] {
        assert_eq!(target[key], set[key]);
    }
    assert_eq!(target["name"], *name);
}

#[test]
fn the_autoscaler_asks_for_a_metric_that_there_is() {
    let metric = &manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["external"]["metric"].clone();
    let pipeline = toml(&text(&format!("kubernetes/{PIPELINE}")));
    assert_eq!(metric["selector"]["matchLabels"], json!({ "pipeline": pipeline["name"].as_str() }));
    let name = string(&metric["name"]);
    let rule = &yaml("prometheus-adapter.yaml")["rules"]["external"][0];
    assert!(string(&rule["seriesQuery"]).contains(&format!("__name__=\"{name}\"")), "{rule}");
    assert!(text("README.md").contains(&format!("`{name}{{pipeline,topic,partition}}`")), "{name}");
    let metrics = repository().join("runtime/src/observe/metrics.rs");
    assert!(
        std::fs::read_to_string(metrics).expect("the metrics").contains(&format!("\"{name}\"")),
        "{name}"
    );
}

#[test]
fn the_pod_has_what_the_pipeline_needs() {
    let manifests = manifests();
    let pod = &manifests["StatefulSet"]["spec"]["template"]["spec"];
    let container = named(&pod["containers"], "millstream");
    let source = text(&format!("kubernetes/{PIPELINE}"));
    let pipeline = toml(&source);

    let given: BTreeSet<String> =
        container["env"].as_array().expect("variables").iter().map(|one| string(&one["name"])).collect();
    let used =
        source.split("${").skip(1).map(|rest| rest.split(['}', ':']).next().expect("a name").to_owned());
    assert_eq!(used.collect::<BTreeSet<_>>(), given, "variables");

    let set = &manifests["StatefulSet"]["spec"];
    let made = &yaml("kubernetes/kustomization.yaml")["configMapGenerator"][0];
    assert_eq!(strings(&made["files"]), [PIPELINE]);
    assert_eq!(named(&pod["volumes"], "pipeline")["configMap"]["name"], made["name"]);
    assert_eq!(set["volumeClaimTemplates"][0]["metadata"]["name"], "data");
    let mounted = |volume: &str| string(&named(&container["volumeMounts"], volume)["mountPath"]);
    let arguments = strings(&container["args"]);
    assert!(arguments.contains(&format!("{}/{PIPELINE}", mounted("pipeline"))), "{arguments:?}");
    assert!(arguments.contains(&format!("--data-dir={}", mounted("data"))), "{arguments:?}");

    // A stop, and leaving the group.
    let stop = seconds(pipeline["shutdown_timeout"].as_str().expect("a time")) + 10;
    assert!(pod["terminationGracePeriodSeconds"].as_i64().expect("seconds") > stop);
    let budget = mebibytes(pipeline["budget"].as_str().expect("a size"));
    assert!(mebibytes(&string(&container["resources"]["limits"]["memory"])) >= 2 * budget);

    let user = pod["securityContext"]["runAsUser"].as_u64().expect("a user");
    let image = std::fs::read_to_string(repository().join("Containerfile")).expect("the container's file");
    assert!(image.lines().any(|line| line == format!("USER {user}:{user}")), "{image}");
    assert!(image.ends_with("ENTRYPOINT [\"millstream\"]\n"), "{image}");
}

#[test]
fn the_pipeline_passes_its_check_and_its_tests() {
    let folder = Folder::new();
    let file = folder.write(PIPELINE, &text(&format!("kubernetes/{PIPELINE}")));
    for verb in ["check", "test"] {
        let mut command = with_variables(millstream(&[verb, file.to_str().expect("UTF-8")]));
        let output = command.output().expect("the binary starts");
        let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb}: {printed}");
    }
}

#[test]
fn the_binary_takes_the_containers_arguments_and_answers_its_probes() {
    let folder = Folder::new();
    folder.write(PIPELINE, &text(&format!("kubernetes/{PIPELINE}")));
    let manifests = manifests();
    let container = named(&manifests["StatefulSet"]["spec"]["template"]["spec"]["containers"], "millstream");
    let data = data_folder(&folder);
    let here = |argument: String| {
        let argument = argument.replace("/etc/millstream/", &format!("{}/", folder.path("").display()));
        let argument = argument.replace("/var/lib/millstream", &data.display().to_string());
        argument.replace("--admin=0.0.0.0:9464", "--admin=0.0.0.0:0")
    };
    let arguments: Vec<String> = strings(&container["args"]).into_iter().map(here).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut running = Running::of(&folder, &mut with_variables(millstream(&arguments)));
    running.wait_for("the admin server", |running| running.log().contains("admin server listening"));
    let log = running.log();
    let line = log.lines().find(|line| line.contains("admin server listening")).expect("it was there");
    let line: Value = serde_json::from_str(line).expect("the log is JSON");
    let admin = string(&line["addr"]).replace("0.0.0.0", "127.0.0.1");
    for (probe, expected) in [("startupProbe", 200), ("livenessProbe", 200), ("readinessProbe", 503)] {
        let path = string(&container[probe]["httpGet"]["path"]);
        // There is no broker of that name.
        running.wait_for(probe, |_| ask(&admin, &path).is_some_and(|(status, _)| status == expected));
    }
    // P8: it does not wait for a broker.
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert!(data.join("orders/store.sqlite").exists(), "it wrote where the volume is");
}

fn with_variables(mut command: Command) -> Command {
    for name in ["POD_NAME", "KAFKA_USERNAME", "KAFKA_PASSWORD"] {
        command.env(name, "orders-0");
    }
    command
}
