//! The examples under the help of subcommands that have no file of longer ones. A test parses all of them.

pub(super) const PROXY: &str = "\
Examples:
  rezcache proxy --grid http://login.osgrid.org/
  rezcache proxy --grid home=http://192.168.1.5:8002/ --grid http://login.osgrid.org/
  rezcache proxy --grid secondlife=https://login.agni.lindenlab.com/cgi-bin/login.cgi
  rezcache proxy --grid http://login.osgrid.org/ --cache-server auto
  rezcache proxy --grid http://login.osgrid.org/ --cache-size 50GiB --upload no";

pub(super) const REPLAY: &str = "\
Examples:
  rezcache replay fixtures/sessions
  rezcache replay my-login.pcap --save received --json
  rezcache replay my-login.pcap --link 20mbit,40ms
  rezcache replay fixtures/sessions --cache-server https://127.0.0.1:8443";

pub(super) const STORE: &str = "\
Examples:
  rezcache store verify
  rezcache store verify --repair --json
  rezcache store stat agni/texture/5748decc-f629-461c-9a36-a35a221fe21f
  rezcache store keys export keys-backup
  rezcache store distrust --principal NAME --since 36h";

pub(super) const TOKEN: &str = "\
Examples:
  rezcache token keygen --signing-key tokens.key
  rezcache token new --signing-key tokens.key --subject desk-7 --tenant school --rights read,write
  rezcache token list --signing-key tokens.key
  rezcache token revoke --subject desk-7
  rezcache token revoke --join-lines";

pub(super) const STATUS: &str = "\
Examples:
  rezcache status
  rezcache status --json
  rezcache status --address                     the page's address, with the key for its buttons";

pub(super) const CHECK_CONFIG: &str = "\
Examples:
  rezcache check-config
  rezcache check-config --config rezcache.toml";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::super::Cli;

    /// The words of a line, as a shell splits them; none of the examples quotes anything.
    fn words(line: &str) -> Vec<&str> {
        // What stands after a wider gap, a redirection or a comment is not part of the command.
        let command = line.trim().split("  ").next().unwrap_or_default();
        command.split(" < ").next().unwrap_or_default().split_whitespace().collect()
    }

    #[test]
    fn every_example_is_a_command() {
        let mut found = 0;
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> =
                help.lines().filter(|line| line.trim_start().starts_with("rezcache ")).map(words).collect();
            assert!(!examples.is_empty(), "{} has no examples", command.get_name());
            for example in examples {
                let parsed = Cli::try_parse_from(&example);
                assert!(parsed.is_ok(), "{}: {:?}", example.join(" "), parsed.err());
                found += 1;
            }
        }
        assert!(found > 20, "{found}");
    }
}
