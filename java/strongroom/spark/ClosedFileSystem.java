package strongroom.spark;

import java.io.IOException;
import java.net.URI;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.security.AccessControlException;

/** What every scheme but {@code file:} means in a job: nothing. */
public final class ClosedFileSystem extends RawLocalFileSystem {
  @Override
  public void initialize(URI name, Configuration conf) throws IOException {
    throw new AccessControlException(
        "refused to reach " + name + ": a job opens its declared inputs and nothing else");
  }
}
