//! Checks the layout of the crate and the shell: imports go down, and import cycles are small.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Maximum number of files in an import cycle.
const LARGEST_CIRCLE: usize = 6;

/// The modules of a crate, without those of tests.
struct Crate {
    /// The rooms, from top to bottom: the order of `mod` lines in the root.
    rooms: Vec<String>,
    /// Path and source of each module.
    modules: BTreeMap<String, (PathBuf, String)>,
}

/// A line that imports from a module of the same crate.
struct Import {
    line: usize,
    module: String,
}

impl Crate {
    fn read(root: &str) -> Crate {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
        let folder = root.parent().expect("a folder");
        let mut found = Crate { rooms: Vec::new(), modules: BTreeMap::new() };
        let source = std::fs::read_to_string(&root).unwrap();
        found.rooms = children(&source);
        found.add("", root.clone(), folder);
        assert!(found.modules.len() > 10);
        found
    }

    fn add(&mut self, module: &str, path: PathBuf, folder: &Path) {
        let source = std::fs::read_to_string(&path).unwrap();
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        for child in children(&source) {
            let (file, inside) = (folder.join(format!("{child}.rs")), folder.join(&child));
            let file = if file.exists() { file } else { inside.join("mod.rs") };
            self.add(format!("{module}::{child}").trim_start_matches(':'), file, &inside);
        }
        self.modules.insert(module.to_owned(), (path, source));
    }

    /// The module that a path below `crate::` leads to.
    fn module_of(&self, path: &str) -> &str {
        let mut path = path.trim_end_matches(':');
        loop {
            if let Some((module, _)) = self.modules.get_key_value(path) {
                return module;
            }
            path = path.rsplit_once("::").map_or("", |(parent, _)| parent);
        }
    }

    fn imports(&self, module: &str) -> Vec<Import> {
        let (_, source) = &self.modules[module];
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let below = |name: &str| format!("{module}::{name}").trim_start_matches(':').to_owned();
        let children: Vec<String> = children(source);
        let mut imports = Vec::new();
        for (number, text) in source.lines().enumerate() {
            let code = text.split("//").next().unwrap_or_default();
            let mut import = |path: String| {
                imports.push(Import { line: number + 1, module: self.module_of(&path).to_owned() });
            };
            for path in paths(code, "crate::") {
                import(path);
            }
            for path in paths(code, "super::") {
                import(format!("{parent}::{path}").trim_start_matches(':').to_owned());
            }
            for child in &children {
                if !paths(code, &format!("{child}::")).is_empty() {
                    import(below(child));
                }
            }
        }
        imports.retain(|import| import.module != module);
        imports
    }

    fn floor(&self, module: &str) -> usize {
        let room = module.split("::").next().unwrap_or_default();
        // The root is above all rooms.
        self.rooms.iter().position(|other| other == room).map_or(0, |floor| floor + 1)
    }

    /// Imports from a room above.
    fn upward(&self) -> Vec<String> {
        let mut upward = Vec::new();
        for (module, (path, _)) in &self.modules {
            for Import { line, module: to } in self.imports(module) {
                if self.floor(&to) < self.floor(module) {
                    upward.push(format!("{}:{line} imports `crate::{to}`, which is above", path.display()));
                }
            }
        }
        upward
    }

    /// All modules that can be reached from one by imports.
    fn reached(&self, from: &str) -> BTreeSet<String> {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(module) = next.pop() {
            for import in self.imports(&module) {
                if reached.insert(import.module.clone()) {
                    next.push(import.module);
                }
            }
        }
        reached
    }

    /// Modules that import each other in a circle.
    fn circles(&self) -> BTreeSet<BTreeSet<String>> {
        let reached: BTreeMap<&String, BTreeSet<String>> =
            self.modules.keys().map(|module| (module, self.reached(module))).collect();
        let circle = |module: &String| {
            let there_and_back = |other: &&String| reached[module].contains(*other) && reached[*other].contains(module);
            reached.keys().copied().filter(there_and_back).cloned().collect::<BTreeSet<String>>()
        };
        self.modules.keys().map(circle).filter(|circle| circle.len() > 1).collect()
    }
}

/// The paths in a line that begin with `root`, without it. A list in braces makes a path of each name.
fn paths(code: &str, root: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '"') {
            continue;
        }
        let rest = &code[at + root.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
        let listed = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        paths.extend(listed.unwrap_or_default().split(',').map(|name| format!("{}{}", &rest[..end], name.trim())));
    }
    paths
}

/// The modules that a source declares, without those of tests.
fn children(source: &str) -> Vec<String> {
    let mut children = Vec::new();
    let mut hidden = false;
    for line in source.lines() {
        let declared = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ");
        match declared.and_then(|rest| rest.strip_suffix(';')) {
            Some(name) if !hidden => children.push(name.to_owned()),
            _ => {}
        }
        hidden = line.starts_with("#[") && (hidden || line.starts_with("#[cfg("));
    }
    children
}

fn crates() -> [Crate; 2] {
    ["src/lib.rs", "../shell/src/main.rs"].map(Crate::read)
}

#[test]
fn imports_go_down() {
    for found in crates() {
        let upward = found.upward();
        assert!(upward.is_empty(), "{}", upward.join("\n"));
    }
}

#[test]
fn circles_of_imports_are_small() {
    for found in crates() {
        for circle in found.circles() {
            assert!(circle.len() <= LARGEST_CIRCLE, "{} files import each other: {circle:?}", circle.len());
        }
    }
}

#[test]
fn an_import_that_goes_up_and_a_circle_are_seen() {
    let source = |text: &str| (PathBuf::from("file.rs"), text.to_owned());
    let modules = [
        ("", source("mod high;\nmod low;")),
        ("high", source("use crate::low::Thing;")),
        ("low", source("// crate::high\n\nuse crate::{high, low};")),
    ];
    let modules = modules.map(|(name, source)| (name.to_owned(), source)).into();
    let found = Crate { rooms: vec!["high".to_owned(), "low".to_owned()], modules };
    assert_eq!(found.upward(), ["file.rs:3 imports `crate::high`, which is above"]);
    assert_eq!(found.circles(), [["high", "low"].map(str::to_owned).into()].into());
}
