load common

setup_file() { :; }

@test "without a word, furrow explains itself on stdout" {
  run --separate-stderr "$furrow"
  [ "$status" -eq 0 ]
  [ -z "$stderr" ]
  for command in train eval plan runs help; do [[ $output == *"  $command "* ]]; done
}

@test "every command has help, also as --help" {
  for command in train eval plan runs help; do
    run --separate-stderr "$furrow" help $command
    [ "$status" -eq 0 ]
    [[ $output == *"usage: furrow $command"* ]]
    [ "$("$furrow" $command --help)" = "$output" ]
  done
}

@test "the version names release, commit and build type" {
  run "$furrow" --version
  [ "$status" -eq 0 ]
  [[ $output =~ ^furrow\ [0-9]+\.[0-9]+\.[0-9]+\ \(commit\ [0-9a-f]{40}(-dirty)?,\ [A-Za-z]+\)$ || $output == *"commit unknown"* ]]
}

@test "the configuration explains itself: all, a section, a key" {
  [[ $("$furrow" help config) == *training* ]]
  [[ $("$furrow" help config training) == *local_batch_size* ]]
  [[ $("$furrow" help config optimizer.lr) == *"Learning rate"* ]]
}

@test "an unknown command names the nearest" {
  run --separate-stderr "$furrow" trian
  fails 2 "did you mean 'train'"
}

@test "help for an unknown command names the nearest" {
  run --separate-stderr "$furrow" help evla
  fails 2 "did you mean 'eval'"
}

@test "help for an unknown key names the nearest" {
  run --separate-stderr "$furrow" help config optimizer.lrr
  [ "$status" -ne 0 ]
  [[ $stderr == *"lr"* ]]
}

@test "an unknown option names the nearest" {
  run --separate-stderr "$furrow" help --markdwon
  fails 2 "did you mean '--markdown'"
}

@test "a result that cannot be written is an error" {
  run --separate-stderr bash -c '"$0" help config > /dev/full' "$furrow"
  [ "$status" -eq 10 ]
}

@test "help never maps libtorch" {
  run env LD_DEBUG=files "$furrow" help config
  [ "$status" -eq 0 ]
  [[ $output == *libfurrow.so* && $output != *libtorch* && $output != *libfurrow_torch* ]]
}
