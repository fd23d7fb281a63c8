//! What nodes are called when nobody has named them: animals, so that people can talk about them.

const ANIMALS: [&str; 96] = [
    "adder",
    "albatross",
    "alpaca",
    "ant",
    "badger",
    "bat",
    "bear",
    "beaver",
    "bee",
    "bison",
    "boar",
    "buffalo",
    "butterfly",
    "camel",
    "caribou",
    "cat",
    "cheetah",
    "chough",
    "cobra",
    "condor",
    "cormorant",
    "coyote",
    "crab",
    "crane",
    "cricket",
    "crow",
    "deer",
    "dingo",
    "dolphin",
    "dove",
    "eagle",
    "eland",
    "elk",
    "emu",
    "falcon",
    "ferret",
    "finch",
    "fox",
    "frog",
    "gazelle",
    "gecko",
    "giraffe",
    "goose",
    "hare",
    "hawk",
    "hedgehog",
    "heron",
    "hornet",
    "ibex",
    "ibis",
    "jackal",
    "jay",
    "kestrel",
    "koala",
    "lark",
    "lemur",
    "leopard",
    "lynx",
    "magpie",
    "marten",
    "mole",
    "moose",
    "mouse",
    "newt",
    "ocelot",
    "octopus",
    "oriole",
    "otter",
    "owl",
    "panda",
    "parrot",
    "pelican",
    "puffin",
    "puma",
    "quail",
    "rabbit",
    "raven",
    "robin",
    "salmon",
    "seal",
    "shrew",
    "skunk",
    "snail",
    "sparrow",
    "squid",
    "stork",
    "swan",
    "tapir",
    "tern",
    "toad",
    "trout",
    "turtle",
    "vole",
    "weasel",
    "wren",
    "zebra",
];

/// A name that is not taken. `draw` chooses where to begin, so that a name is not used again at once.
#[must_use]
pub fn unused(draw: u64, taken: &dyn Fn(&str) -> bool) -> String {
    let count = ANIMALS.len() as u64;
    for round in 1_u64.. {
        for step in 0..count {
            let at = usize::try_from((draw % count + step) % count).unwrap_or(0);
            let animal = ANIMALS.get(at).copied().unwrap_or("animal");
            let name = if round == 1 { animal.to_owned() } else { format!("{animal}-{round}") };
            if !taken(&name) {
                return name;
            }
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_do_not_repeat_while_they_are_taken() {
        let mut taken = BTreeSet::new();
        for n in 0..400 {
            let name = unused(n * 7919, &|name| taken.contains(name));
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            assert!(taken.insert(name));
        }
        assert!(ANIMALS.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    }
}
