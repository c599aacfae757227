package strongroom.spark;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.security.AccessControlException;

/**
 * Decides which local paths this JVM's file systems may read and write; fixed when the JVM starts.
 *
 * <p>Scratch is memory, and anything may be written there. The outbox may lie on a disk, so only names of encrypted
 * Parquet files and of their commit protocol are written there.
 */
final class Walls {
  private static final List<String> SCRATCH = roots("strongroom.scratch");
  private static final List<String> OUTBOX = roots("strongroom.outbox");
  private static final List<String> INPUTS = roots("strongroom.inputs");

  private Walls() {}

  static void checkWrite(Path path, String act) throws IOException {
    String real = real(path);
    if (within(real, SCRATCH)) {
      return;
    }
    if (within(real, OUTBOX)) {
      String name = path.getName();
      if (name.endsWith(".parquet") || !act.equals("create")) {
        return;
      }
    }
    throw new AccessControlException(
        "refused to " + act + " " + path + ": a job writes through room.write, encrypted, and nowhere else");
  }

  /** Refuses to move a file from scratch, where anything is written, to the outbox, where little is. */
  static void checkRename(Path from, Path to) throws IOException {
    checkWrite(from, "rename");
    checkWrite(to, "rename");
    if (inOutbox(to) && !inOutbox(from)) {
      throw new AccessControlException("refused to move " + from + " into the outbox");
    }
  }

  /** Returns whether {@code path} lies in the outbox and not in memory. */
  static boolean inOutbox(Path path) throws IOException {
    String real = real(path);
    return within(real, OUTBOX) && !within(real, SCRATCH);
  }

  static void checkRead(Path path) throws IOException {
    String real = real(path);
    if (!within(real, SCRATCH) && !within(real, OUTBOX) && !within(real, INPUTS)) {
      throw new AccessControlException("refused to read " + path + ": it is not a declared input");
    }
  }

  private static String real(Path path) throws IOException {
    return new File(path.toUri().getPath()).getCanonicalPath();
  }

  private static boolean within(String path, List<String> roots) {
    for (String root : roots) {
      if (path.equals(root) || path.startsWith(root + File.separator)) {
        return true;
      }
    }
    return false;
  }

  private static List<String> roots(String property) {
    List<String> roots = new ArrayList<>();
    for (String root : System.getProperty(property, "").split(File.pathSeparator)) {
      if (!root.isEmpty()) {
        try {
          roots.add(new File(root).getCanonicalPath());
        } catch (IOException error) {
          throw new IllegalStateException("cannot resolve " + root, error);
        }
      }
    }
    return List.copyOf(roots);
  }
}
