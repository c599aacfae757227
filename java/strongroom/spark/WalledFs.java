package strongroom.spark;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.DelegateToFileSystem;

/** The walled local file system as Hadoop's {@code FileContext} wants it (streaming checkpoints go that way). */
public final class WalledFs extends DelegateToFileSystem {
  public WalledFs(URI uri, Configuration conf) throws IOException, URISyntaxException {
    super(uri, new WalledFileSystem(), conf, "file", false);
  }

  @Override
  public int getUriDefaultPort() {
    return -1;
  }
}
