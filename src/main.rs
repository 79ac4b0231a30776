//! The program: the command line is in [`tidegate::cli`].

fn main() -> std::process::ExitCode {
    tidegate::cli::main()
}
