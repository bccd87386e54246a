//! The architecture, held as a test: which module may call which, what the
//! pure layers may not know, how long a file gets and how it opens.
//!
//! Rules about code look at its tokens, so that comments and strings are free
//! to name anything. Code under `#[cfg(test)]`, inline or in a file of its own,
//! is no production code: it may import what it likes and be as long as it
//! needs. Every broken rule is told at once, each with its file.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Lines of production code in one file.
const LINES_MAX: usize = 400;

/// Lines of `//!` at the top of a file of production code.
const HEADER_MIN: usize = 2;

/// The modules that data passes through. Each may call those behind it.
const FLOW: [&str; 5] = ["listener", "upgrade", "connection", "service", "state"];

/// The modules that everybody may call, each with the ones it may call.
const LEAVES: [(&str, &[&str]); 8] = [
    ("wire", &[]),
    ("engine", &["wire"]),
    ("clock", &[]),
    ("metrics", &["clock"]),
    ("config", &["engine"]),
    ("identity", &["wire"]),
    ("certificates", &[]),
    ("store", &["metrics", "clock"]),
];

/// The modules that nothing of the above may call, each with the ones it may
/// call.
const TOP: [(&str, &[&str]); 3] = [
    ("admin", &["state", "config", "metrics", "clock"]),
    (
        "probe",
        &[
            "upgrade",
            "connection",
            "service",
            "wire",
            "engine",
            "clock",
            "config",
            "identity",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "probe",
            "listener",
            "upgrade",
            "connection",
            "service",
            "state",
            "wire",
            "engine",
            "clock",
            "metrics",
            "config",
            "identity",
            "certificates",
            "store",
        ],
    ),
];

/// What the modules without I/O may not name.
const IMPURE: [&[&str]; 8] = [
    &["tokio"],
    &["socket2"],
    &["net", "TcpStream"],
    &["net", "TcpListener"],
    &["net", "UdpSocket"],
    &["net", "ToSocketAddrs"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];

#[test]
fn files_are_short() {
    let mut broken = Broken::default();
    for file in sources().iter().filter(|file| !file.is_test) {
        let lines = file.production_lines();
        if lines > LINES_MAX {
            broken.add(file, &format!("{lines} production lines"));
        }
    }
    broken.tell(&format!(
        "a file has at most {LINES_MAX} lines of production code: split it by mechanism"
    ));
}

#[test]
fn files_open_with_what_they_own() {
    let mut broken = Broken::default();
    for file in sources() {
        let lines = file.text.lines();
        let header = lines.take_while(|line| line.starts_with("//!")).count();
        // A file of tests may say in one line what they are about.
        let needed = if file.is_test { 1 } else { HEADER_MIN };
        if header < needed {
            broken.add(&file, &format!("{header} of {needed} lines"));
        }
    }
    broken.tell("a file opens with `//!`: what it owns, what it bounds, what it leaves to others");
}

#[test]
fn modules_call_to_the_right_or_into_leaves() {
    let mut broken = Broken::default();
    for file in sources().iter().filter(|file| !file.is_test) {
        let Some(module) = file.module() else {
            continue;
        };
        let Some(allowed) = callable(&module) else {
            broken.add(file, &format!("`{module}` has no place in the map"));
            continue;
        };
        for called in file.called_modules() {
            if called != module && !allowed.contains(&called.as_str()) {
                broken.add(file, &format!("`{module}` calls `{called}`"));
            }
        }
    }
    broken.tell(
        "listener → upgrade → connection → service → state: \
         a module calls to the right or into a leaf, never to the left",
    );
}

#[test]
fn codecs_and_engines_know_neither_sockets_nor_the_clock() {
    let mut broken = Broken::default();
    for file in sources() {
        if !["wire", "engine"].contains(&file.module().as_deref().unwrap_or_default()) {
            continue;
        }
        for path in paths(&file.tokens()) {
            let named = IMPURE.iter().find(|impure| {
                path.windows(impure.len())
                    .any(|part| part.iter().eq(impure.iter()))
            });
            if named.is_some() {
                broken.add(&file, &format!("names `{}`", path.join("::")));
            }
        }
    }
    broken.tell("wire/ and engine/ are pure: bytes and time are handed in");
}

#[test]
fn modules_lie_beside_their_directories() {
    let mut broken = Broken::default();
    for file in sources() {
        if file.path.ends_with("mod.rs") {
            broken.add(&file, "is a mod.rs");
        }
    }
    broken.tell("`foo.rs` stands beside `foo/`; there is no mod.rs");
}

#[test]
fn nothing_is_unsafe() {
    let mut broken = Broken::default();
    for file in sources() {
        if paths(&file.tokens()).iter().any(|path| path == &["unsafe"]) {
            broken.add(&file, "says `unsafe`");
        }
    }
    broken.tell("src/ has no unsafe code");
}

/// What a module may call, itself aside.
fn callable(module: &str) -> Option<Vec<&'static str>> {
    if let Some(place) = FLOW.iter().position(|name| *name == module) {
        let leaves = LEAVES.iter().map(|(name, _)| *name);
        return Some(FLOW[place + 1..].iter().copied().chain(leaves).collect());
    }
    let mut rest = LEAVES.iter().chain(&TOP);
    rest.find(|(name, _)| *name == module)
        .map(|(_, called)| called.to_vec())
}

/// The files that break one rule.
#[derive(Default)]
struct Broken(String);

impl Broken {
    fn add(&mut self, file: &Source, how: &str) {
        writeln!(self.0, "  src/{}: {how}", file.path.display()).unwrap();
    }

    fn tell(&self, rule: &str) {
        assert!(self.0.is_empty(), "house rule: {rule}\n{}", self.0);
    }
}

/// One file of the crate.
struct Source {
    /// From `src/`.
    path: PathBuf,
    text: String,
    /// Compiled for tests only.
    is_test: bool,
}

impl Source {
    fn tokens(&self) -> TokenStream {
        self.text
            .parse()
            .unwrap_or_else(|error| panic!("src/{}: {error}", self.path.display()))
    }

    /// The module of the crate that the file belongs to; none for the two
    /// roots.
    fn module(&self) -> Option<String> {
        let first = self.path.components().next().unwrap();
        let first = Path::new(first.as_os_str()).file_stem().unwrap();
        let name = first.to_str().unwrap();
        (!["lib", "main"].contains(&name)).then(|| name.to_owned())
    }

    /// Where the files of this file's modules lie.
    fn directory(&self) -> PathBuf {
        match self.module() {
            Some(_) => self.path.with_extension(""),
            None => PathBuf::new(),
        }
    }

    fn production_lines(&self) -> usize {
        let tests: usize = split(self.tokens())
            .tests
            .iter()
            .map(|test| test.lines)
            .sum();
        self.text.lines().count() - tests
    }

    /// The modules of the crate that production code names, by their path
    /// from the root or by as many `super` as lead there.
    fn called_modules(&self) -> BTreeSet<String> {
        let depth = self.path.components().count();
        paths(&split(self.tokens()).production)
            .into_iter()
            .filter_map(|path| {
                let supers = path.iter().take_while(|name| *name == "super").count();
                match path.first()?.as_str() {
                    "crate" => path.get(1).cloned(),
                    "super" if supers >= depth => path.get(supers).cloned(),
                    _ => None,
                }
            })
            .filter(|name| callable(name).is_some())
            .collect()
    }
}

/// Every file under `src/`.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 50, "this is not the crate's source");
    let tests: Vec<PathBuf> = found
        .iter()
        .flat_map(|file| {
            let modules = split(file.tokens()).tests.into_iter();
            modules.filter_map(|test| Some(file.directory().join(test.file?)))
        })
        .collect();
    for file in &mut found {
        let module = file.path.with_extension("");
        file.is_test = tests.iter().any(|test| module.starts_with(test));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(directory: &Path, root: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(Source {
                text: fs::read_to_string(&path).unwrap(),
                path: path.strip_prefix(root).unwrap().to_owned(),
                is_test: false,
            });
        }
    }
}

/// A file's items, sorted by when they are compiled.
#[derive(Default)]
struct Split {
    production: TokenStream,
    tests: Vec<TestItem>,
}

/// An item under `#[cfg(test)]`.
struct TestItem {
    lines: usize,
    /// Its name, if it is a module in a file of its own.
    file: Option<String>,
}

/// Takes the items under `#[cfg(test)]` out of a file. An item ends with its
/// first semicolon or braces, as all that are put under it here do.
fn split(tokens: TokenStream) -> Split {
    let mut split = Split::default();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let attribute = match (&token, tokens.peek()) {
            (TokenTree::Punct(hash), Some(TokenTree::Group(group))) if hash.as_char() == '#' => {
                group.to_string().replace(' ', "")
            }
            _ => String::new(),
        };
        if attribute != "[cfg(test)]" {
            split.production.extend([token]);
            continue;
        }
        let mut words = Vec::new();
        let end = tokens.find(|token| {
            words.extend(match token {
                TokenTree::Ident(word) => Some(word.to_string()),
                _ => None,
            });
            match token {
                TokenTree::Punct(punct) => punct.as_char() == ';',
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                _ => false,
            }
        });
        let end = end.expect("an item behind its attribute");
        let is_file = matches!(end, TokenTree::Punct(_));
        split.tests.push(TestItem {
            lines: end.span().end().line - token.span().start().line + 1,
            file: match words.as_slice() {
                [.., keyword, name] if is_file && keyword == "mod" => Some(name.clone()),
                _ => None,
            },
        });
    }
    split
}

/// Every path that the tokens name, `a::{b, c}` as two of them; a lone word is
/// a path too.
fn paths(tokens: &TokenStream) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    for token in tokens.clone() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
            TokenTree::Ident(word) => {
                if colons != 2 {
                    found.push(std::mem::take(&mut path));
                }
                path.push(word.to_string());
                colons = 0;
            }
            TokenTree::Group(group) => {
                let prefix = std::mem::take(&mut path);
                let inner = paths(&group.stream()).into_iter();
                if colons == 2 {
                    found.extend(inner.map(|end| [prefix.clone(), end].concat()));
                } else {
                    found.push(prefix);
                    found.extend(inner);
                }
                colons = 0;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                found.push(std::mem::take(&mut path));
                colons = 0;
            }
        }
    }
    found.push(path);
    found.retain(|path| !path.is_empty());
    found
}

#[test]
fn tokens_are_read_as_meant() {
    let text = r#"
        //! crate::doc
        use crate::{a::{b, self}, c}; // crate::comment
        #[cfg(test)]
        fn helper() { crate::helper(); }
        fn f() -> super::d { g(std::net::h("tokio::i"), x as crate::e) }
        #[cfg(test)]
        #[expect(lint, reason = "text")]
        mod tests;
    "#;
    let split = split(text.parse().unwrap());
    let found: BTreeSet<String> = paths(&split.production)
        .iter()
        .map(|path| path.join("::"))
        .filter(|path| path.contains("::"))
        .collect();
    let expected = [
        "crate::a::b",
        "crate::a::self",
        "crate::c",
        "crate::e",
        "std::net::h",
        "super::d",
    ];
    assert!(found.iter().eq(expected), "{found:?}");
    let tests: Vec<_> = split.tests.into_iter().collect();
    assert_eq!((tests[0].lines, tests[0].file.as_deref()), (2, None));
    assert_eq!(
        (tests[1].lines, tests[1].file.as_deref()),
        (3, Some("tests"))
    );
}
