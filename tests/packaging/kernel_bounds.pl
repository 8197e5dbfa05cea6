# Every launch has the threads of its kernel's launch bounds, by the same struct: a GPU refuses more, and a kernel that
# counts on its bounds is wrong with fewer. The emulator sees no bounds. Usage: kernel_bounds.pl FILE…
use strict;
use warnings;

my (%text, %bounds, $problems, $launches);
for my $file (@ARGV) {
  open my $in, '<', $file or die "$file: $!\n";
  $text{$file} = do { local $/; <$in> };
  $text{$file} =~ s{//[^\n]*}{}g;
  while ($text{$file} =~ /TESSERA_KERNEL\s+void\s+TESSERA_LAUNCH_BOUNDS\(\s*(?:\w+::)*(\w+)(?:<[^()]*>)?::threads\b[^()]*\)\s*(\w+)\s*\(/g) {
    $bounds{$2} = $1;
  }
}

sub complain {
  my ($file, $at, $what) = @_;
  my $line = 1 + (substr($text{$file}, 0, $at) =~ tr/\n//);
  print "$file:$line: $what\n";
  $problems = 1;
}

# The struct that a name stands for at a place: the nearest `using` before it, or itself.
sub struct_of {
  my ($before, $name) = @_;
  $name =~ s/.*:://;
  my $found = $name;
  $found = $1 while $before =~ /\busing\s+\Q$name\E\s*=\s*(?:typename\s+)?(?:\w+::)*(\w+)(?:<[^;]*>)?;/g;
  return $found;
}

for my $file (sort keys %text) {
  my $source = $text{$file};
  while ($source =~ /\blaunch(\((?:[^()]++|(?1))*\))/g) {
    my ($call, $at) = ($1, $-[0]);
    my $before = substr($source, 0, $at);
    next if $before =~ /\bvoid\s+$/;  # its definition
    ++$launches;
    my $threads;
    if ($call =~ /,\s*unsigned\(\s*([\w:]+)::threads\s*\)\s*,/) {
      $threads = $1;
    } elsif ($call =~ /,\s*threads\s*,/) {
      $threads = $1 while $before =~ /\bthreads\s*=\s*(?:unsigned\()?\s*([\w:]+)::threads\b/g;
      ($threads) = $source =~ /\bthreads\s*=\s*(?:unsigned\()?\s*([\w:]+)::threads\b/ if !defined $threads;  # a class's own, below
    }
    if (!defined $threads) {
      complain($file, $at, "the threads of a launch are not unsigned(traits::threads)");
      next;
    }
    my $struct = struct_of($before, $threads);
    my @kernels = grep { exists $bounds{$_} } $call =~ /\b(\w+_kernel)\b/g;
    if (!@kernels) {  # a variable: one of the kernels that its function names outside other launches
      my $start = 0;
      $start = $-[0] while $before =~ /^(?:  )?(?:template|static|void|inline)\b/mg;
      my $function = substr($source, $start);
      $function = $1 if $function =~ /\A(.*?^(?:  )?\}\n)/ms;
      $function =~ s/\blaunch(\((?:[^()]++|(?1))*\))//g;
      @kernels = grep { exists $bounds{$_} } $function =~ /\b(\w+_kernel)\b/g;
    }
    complain($file, $at, "which kernel is launched is not to be seen") if !@kernels;
    for my $kernel (@kernels) {
      complain($file, $at, "$kernel is launched with ${struct}::threads, but its bounds are $bounds{$kernel}::threads")
        if $bounds{$kernel} ne $struct;
    }
  }
}
print scalar(keys %bounds), " kernels, $launches launches\n";
exit($problems ? 1 : 0);
